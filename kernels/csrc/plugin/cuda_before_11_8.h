// cudaLaunchKernelEx() for CUDA before 11.8 (JetPack 5 has 11.4), included ahead of the kernel's source by
// CMakeLists.txt. Only what the kernel's launcher uses.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#if CUDART_VERSION >= 11080
#error "This CUDA has cudaLaunchKernelEx()."
#endif

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    // Converts each argument to the type of its parameter, then passes their addresses.
    return [&](Parameters... converted) {
        void* addresses[] = {static_cast<void*>(&converted)...};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim,
                                addresses, config->dynamicSmemBytes, config->stream);
    }(std::forward<Arguments>(arguments)...);
}
