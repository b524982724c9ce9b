// TokenSelect, version 1: keeps the prefix tokens and the k patch tokens with the highest scores.
//
// Framework-free launcher: raw pointers, sizes, a stream. The contract is stated in kernels/op.py; adapters
// (the TensorRT plugin, tests) stand around this header and it knows none of them.
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

// Null when the arguments keep the contract; else a sentence that names the first breach (static storage).
const char* token_select_problem(const TokenSelectArgs& args) noexcept;

// Enqueues one kernel on `stream`: no workspace, no synchronisation, safe in a CUDA graph.
// Returns a cudaError_t (0 is success); cudaErrorInvalidValue when token_select_problem() has something to
// say.
int token_select(const TokenSelectArgs& args, CUstream_st* stream) noexcept;

}  // namespace tokfilter
