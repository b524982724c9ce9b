// Functions of the fake CUDA runtime that the fake TensorRT uses.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace fake {

/// Put a task on a stream. It runs when the stream is synchronised, never before, so that code with a missing
/// synchronisation reads stale memory.
void put(cudaStream_t stream, std::function<void()> task);

/// The value of an environment variable, or "".
const char* environment(const char* name);

}  // namespace fake
