// Replaces CUDA's header of this name when a .cu file is compiled as host C++. It has the functions that
// kernels of this repository use; others fail to compile. Semantics: CUDA C++ Programming Guide, sections
// "C++ Language Extensions" and "Warp Vote / Shuffle Functions". Confirmed by: see cuda_on_cpu.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "../block.h"
#include "../memory.h"

#define CUDA_ON_CPU 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// A host thread runs one block at a time, so thread_local storage serves as shared memory. Dynamic shared
// memory is declared as `extern __shared__ unsigned char dynamic_shared[]`: the layer defines an array of
// that name.
#define __shared__ thread_local

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace cuda_on_cpu {
// threadIdx, blockIdx, ...: objects whose members read the running thread's coordinates.
template <const Index3& (*kGet)()>
struct Builtin {
    template <unsigned Index3::* kAxis>
    struct Member {
        operator unsigned() const { return kGet().*kAxis; }
    };
    Member<&Index3::x> x;
    Member<&Index3::y> y;
    Member<&Index3::z> z;
};
inline const Index3& thread_index() { return this_thread().thread; }
inline const Index3& block_index() { return this_thread().block; }
inline const Index3& block_size() { return this_thread().grid->threads; }
inline const Index3& grid_size() { return this_thread().grid->blocks; }
}  // namespace cuda_on_cpu

inline constexpr cuda_on_cpu::Builtin<cuda_on_cpu::thread_index> threadIdx{};
inline constexpr cuda_on_cpu::Builtin<cuda_on_cpu::block_index> blockIdx{};
inline constexpr cuda_on_cpu::Builtin<cuda_on_cpu::block_size> blockDim{};
inline constexpr cuda_on_cpu::Builtin<cuda_on_cpu::grid_size> gridDim{};

// ---- barriers, warp operations: with the caller's file and line for reports

#define CUDA_ON_CPU_SITE \
    ::cuda_on_cpu::Site { file, line }
#define CUDA_ON_CPU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_ON_CPU_CALLER) { cuda_on_cpu::block_barrier(false, CUDA_ON_CPU_SITE); }
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::block_barrier(predicate != 0, CUDA_ON_CPU_SITE).count;
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::block_barrier(predicate != 0, CUDA_ON_CPU_SITE).count != 0;
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_CALLER) {
    const auto votes = cuda_on_cpu::block_barrier(predicate != 0, CUDA_ON_CPU_SITE);
    return votes.count == votes.threads;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, CUDA_ON_CPU_CALLER) {
    cuda_on_cpu::warp_meet(cuda_on_cpu::WarpOp::kSync, mask, 0, 0, CUDA_ON_CPU_SITE);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
    return static_cast<unsigned>(cuda_on_cpu::warp_meet(
        cuda_on_cpu::WarpOp::kBallot, mask, static_cast<std::uint64_t>(predicate != 0), 0, CUDA_ON_CPU_SITE));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

namespace cuda_on_cpu {
template <typename T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t word = 0;
    __builtin_memcpy(&word, &value, sizeof(T));
    word = warp_meet(WarpOp::kShuffle, mask, word, source, site);
    __builtin_memcpy(&value, &word, sizeof(T));
    return value;
}
}  // namespace cuda_on_cpu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::shuffle(mask, value, static_cast<unsigned>(source) % 32, CUDA_ON_CPU_SITE);
}
// Beyond the end of the warp a lane keeps its own value, as on a GPU.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane_of_this_thread() - delta, CUDA_ON_CPU_SITE);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane_of_this_thread() + delta, CUDA_ON_CPU_SITE);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, CUDA_ON_CPU_CALLER) {
    return cuda_on_cpu::shuffle(
        mask, value, cuda_on_cpu::lane_of_this_thread() ^ static_cast<unsigned>(lanes), CUDA_ON_CPU_SITE);
}

// ---- arithmetic, memory

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

template <typename T>
T __ldg(const T* from) {
    return cuda_on_cpu::load(from);
}
// Atomics on shared memory, with relaxed order as in CUDA.
template <typename T>
T atomicAdd(T* address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicOr(T* address, T value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicMax(T* address, T value) {
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

// ---- runtime: the C functions have CUDA's names and linkage, so a host compiled against the real headers
// links to them --

enum cudaError_t : int {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719,
};
enum cudaDeviceAttr : int { cudaDevAttrMultiProcessorCount = 16 };

struct CUstream_st;
using cudaStream_t = CUstream_st*;

extern "C" {
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
}

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    void* attrs;
    unsigned numAttrs;
};

namespace cuda_on_cpu {
// Runs the launch to its end and returns a cudaError_t.
int launch(const Grid& grid, void (*kernel)(void*), void* argument);
}  // namespace cuda_on_cpu

template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...),
                               Actual&&... arguments) {
    struct Call {
        void (*kernel)(Expected...);
        std::tuple<Expected...> arguments;
    } call{kernel, {std::forward<Actual>(arguments)...}};
    const cuda_on_cpu::Grid grid{{config->gridDim.x, config->gridDim.y, config->gridDim.z},
                                 {config->blockDim.x, config->blockDim.y, config->blockDim.z},
                                 config->dynamicSmemBytes};
    const auto run = [](void* data) {
        std::apply(static_cast<Call*>(data)->kernel, static_cast<Call*>(data)->arguments);
    };
    return static_cast<cudaError_t>(cuda_on_cpu::launch(grid, run, &call));
}
