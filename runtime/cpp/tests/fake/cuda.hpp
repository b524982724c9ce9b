// What the fake TensorRT needs of the fake CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace fake {

/// Put work on a stream. It runs when the stream is waited for, and not before: what forgets to wait sees
/// nothing.
void put(cudaStream_t stream, std::function<void()> work);

/// The value of an environment variable, or "".
const char* setting(const char* name);

}  // namespace fake
