// One execution of the plugin.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "contract.h"

namespace tokfilter {

// Checks the tensors of a call and enqueues the kernel on `stream`: no allocation, no synchronisation.
// Returns 0, or a cudaError_t after logging the error for `layer`.
std::int32_t enqueue_call(const Config& config, const char* layer,
                          const nvinfer1::PluginTensorDesc* input_descs,
                          const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                          void* const* outputs, cudaStream_t stream) noexcept;

}  // namespace tokfilter
