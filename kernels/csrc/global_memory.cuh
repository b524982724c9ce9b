// The only ways in which the kernel touches global memory. On a GPU they are one instruction each; the
// CUDA-on-CPU layer (cpu/) checks and counts every access that passes here.
#pragma once

#include <cuda_runtime.h>

namespace tokfilter {

// Read-only for the whole launch, so the non-coherent path may serve it.
template <typename T>
__device__ __forceinline__ T load_global(const T* from) {
    return __ldg(from);
}

template <typename T>
__device__ __forceinline__ void store_global(T* to, T value) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::store(to, value);
#else
    *to = value;  // __stwb would mark the store as strong, which nobody here needs
#endif
}

}  // namespace tokfilter
