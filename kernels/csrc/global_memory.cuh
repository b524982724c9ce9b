// The kernel's only loads from and stores to global memory: one instruction each on a GPU. Tests replace
// cuda_runtime.h by a CUDA-on-CPU layer, which checks and counts every access.
#pragma once

#include <cuda_runtime.h>

namespace tokfilter {

// Read-only during the launch, so the non-coherent cache may be used.
template <typename T>
__device__ __forceinline__ T load_global(const T* from) {
    return __ldg(from);
}

template <typename T>
__device__ __forceinline__ void store_global(T* to, T value) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::store(to, value);
#else
    *to = value;  // not __stwb, which is a strong (more expensive) store
#endif
}

}  // namespace tokfilter
