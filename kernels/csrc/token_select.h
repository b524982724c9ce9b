// TokenSelect, version 1: keeps the prefix tokens and the k patch tokens with the highest scores.
//
// Framework-free launcher: raw pointers, sizes, a stream. Contract: kernels/op.py. The TensorRT plugin and
// the tests call this header; it depends on neither.
#pragma once

#include <cstdint>

struct CUstream_st;  // cudaStream_t, without including CUDA

namespace tokfilter {

enum class ScoreType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };
enum class Order : std::int32_t { kPosition = 0, kScore = 1 };

struct TokenSelectArgs {
    const void* tokens;     // [batch, prefix + patches, channels], element_size bytes each, contiguous
    const void* scores;     // [batch, patches], of score_type, contiguous
    void* selected;         // [batch, prefix + k, channels], contiguous
    std::int32_t* indices;  // [batch, k], positions among the patches; may be null
    std::int64_t batch;
    std::int64_t prefix;
    std::int64_t patches;
    std::int64_t channels;
    std::int64_t k;
    std::int32_t element_size;  // bytes of one token element: 1, 2 or 4
    ScoreType score_type;
    Order order;
};

// Checks the arguments against the contract. Returns null when they are valid, else a message about the first
// invalid one (static storage).
const char* validate_token_select(const TokenSelectArgs& args) noexcept;

// Enqueues one kernel on `stream`: no workspace, no synchronisation, safe in a CUDA graph.
// Returns a cudaError_t (0 is success); cudaErrorInvalidValue for arguments that validate_token_select()
// rejects.
int token_select(const TokenSelectArgs& args, CUstream_st* stream) noexcept;

}  // namespace tokfilter
