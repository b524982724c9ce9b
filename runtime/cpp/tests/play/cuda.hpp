// What the played TensorRT needs of the played CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace played {

/// Put work on a stream. It runs when the stream is waited for, and not before: what forgets to wait sees
/// nothing.
void put(cudaStream_t stream, std::function<void()> work);

/// The value of an environment variable, or "".
const char* setting(const char* name);

}  // namespace played
