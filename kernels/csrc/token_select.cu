// The fused kernel of TokenSelect: selection and gather in one launch. Contract: kernels/op.py; algorithm:
// README.md.
#include <cuda_runtime.h>

#include <algorithm>

#include "check_args.h"
#include "choose_rows.cuh"
#include "copy_row.cuh"
#include "token_select.h"

namespace tokfilter {
namespace {

// ---- kernel

struct Shape {
    std::int64_t batch;
    int prefix, patches, k;
    int row_bytes;
    int rows_per_block;
    bool by_score;
};

// Block x of an image writes output rows [x * rows_per_block, ...). Every block repeats the selection and
// then copies its own rows.
template <ScoreType kType, int kKeys, int kThreads>
__global__ void __launch_bounds__(kThreads)
    token_select_kernel(const unsigned char* __restrict__ tokens,
                        const typename ScoreBits<kType>::Word* __restrict__ scores,
                        unsigned char* __restrict__ selected, std::int32_t* __restrict__ indices,
                        Shape shape) {
    const std::int64_t image = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    if (image >= shape.batch) return;  // the last z-layer of the grid may exceed the batch
    const int first_row = static_cast<int>(blockIdx.x) * shape.rows_per_block;
    const int rows = min(shape.rows_per_block, shape.prefix + shape.k - first_row);
    const int first = max(first_row - shape.prefix, 0);
    const int last = max(first_row + rows - shape.prefix, 0);

    __shared__ Workspace<kThreads> space;
    if (first < last) {
        unsigned keys[kKeys];
        scores += image * shape.patches;
#pragma unroll
        for (int e = 0; e < kKeys; ++e) {
            const int position = position_of<kKeys>(e);
            keys[e] = position < shape.patches ? key_of<kType>(load_global(scores + position)) : 0;
        }
        if (shape.by_score)
            choose_by_score<kKeys, kThreads>(keys, first, last, kLowestKeyBit<kType>, space);
        else
            choose_by_position<kKeys, kThreads>(keys, shape.k, first, last, kLowestKeyBit<kType>, space);
        const int own = static_cast<int>(threadIdx.x);
        if (indices != nullptr && own < last - first)
            store_global(indices + image * shape.k + first + own, space.rows[own]);
    }

    tokens += image * (shape.prefix + shape.patches) * static_cast<std::int64_t>(shape.row_bytes);
    selected += (image * (shape.prefix + shape.k) + first_row) * static_cast<std::int64_t>(shape.row_bytes);
#pragma unroll 1
    for (int row = warp_index(); row < rows; row += kThreads / kWarpSize) {
        const int kept = first_row + row - shape.prefix;
        const int source = kept < 0 ? first_row + row : shape.prefix + space.rows[kept - first];
        copy_row(selected + static_cast<std::int64_t>(row) * shape.row_bytes,
                 tokens + static_cast<std::int64_t>(source) * shape.row_bytes, shape.row_bytes, lane_index());
    }
}

// ---- launchers

constexpr std::int64_t kMaxGridY = 65535;
constexpr std::int64_t kBlocksPerMultiprocessor = 4;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Few images: one output row per warp, so that the copy uses the whole device. Many images: the most rows
// that fit a block's list, so that the selection is repeated least. Otherwise about four blocks per
// multiprocessor.
int rows_per_block(std::int64_t rows, std::int64_t batch, int threads, int multiprocessors) {
    const std::int64_t most = ceil_div(rows, threads / kWarpSize);
    const std::int64_t least = ceil_div(rows, kMaxRowsPerBlock);
    const std::int64_t even = ceil_div(kBlocksPerMultiprocessor * multiprocessors, batch);
    const std::int64_t blocks = std::max(least, std::min(even, most));
    return static_cast<int>(ceil_div(rows, blocks));
}

template <ScoreType kType, int kKeys, int kThreads>
cudaError_t launch(const TokenSelectArgs& args, cudaStream_t stream, int multiprocessors) {
    using Word = typename ScoreBits<kType>::Word;
    const std::int64_t rows = args.prefix + args.k;
    const int share = rows_per_block(rows, args.batch, kThreads, multiprocessors);
    const Shape shape{args.batch,
                      static_cast<int>(args.prefix),
                      static_cast<int>(args.patches),
                      static_cast<int>(args.k),
                      static_cast<int>(args.channels * args.element_size),
                      share,
                      args.order == Order::kScore};
    const std::int64_t layer = std::min(args.batch, kMaxGridY);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(ceil_div(rows, share)), static_cast<unsigned>(layer),
                          static_cast<unsigned>(ceil_div(args.batch, layer)));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, token_select_kernel<kType, kKeys, kThreads>,
                              static_cast<const unsigned char*>(args.tokens),
                              static_cast<const Word*>(args.scores),
                              static_cast<unsigned char*>(args.selected), args.indices, shape);
}

template <ScoreType kType>
cudaError_t launch_for_patches(const TokenSelectArgs& args, cudaStream_t stream, int multiprocessors) {
    if (args.patches <= 256) return launch<kType, 1, 256>(args, stream, multiprocessors);
    if (args.patches <= 1024) return launch<kType, 4, 256>(args, stream, multiprocessors);
    if (args.patches <= 4096) return launch<kType, 8, 512>(args, stream, multiprocessors);
    return launch<kType, 16, 512>(args, stream, multiprocessors);
}

}  // namespace

const char* validate_token_select(const TokenSelectArgs& args) noexcept { return first_error(args); }

int token_select(const TokenSelectArgs& args, CUstream_st* stream) noexcept {
    if (first_error(args) != nullptr) return cudaErrorInvalidValue;
    int device = 0, multiprocessors = 0;
    if (const cudaError_t error = cudaGetDevice(&device)) return error;
    if (const cudaError_t error =
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device))
        return error;
    switch (args.score_type) {
        case ScoreType::kFloat32:
            return launch_for_patches<ScoreType::kFloat32>(args, stream, multiprocessors);
        case ScoreType::kFloat16:
            return launch_for_patches<ScoreType::kFloat16>(args, stream, multiprocessors);
        case ScoreType::kBFloat16:
            return launch_for_patches<ScoreType::kBFloat16>(args, stream, multiprocessors);
    }
    return cudaErrorInvalidValue;
}

}  // namespace tokfilter
