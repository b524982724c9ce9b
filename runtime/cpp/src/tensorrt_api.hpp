// Calls that differ between the TensorRT versions that this compiles with: 8.5, 8.6, 10.3 and later, 11.
//
// All else that plan.cpp calls has the same signature in each of them: tensors by name, enqueueV3 and
// `delete` of TensorRT's objects stand in 8.5 already. Dims::d has 32 bits in 8.x and 64 since 10.0: convert,
// do not assume.
#pragma once

#include <NvInferRuntime.h>

namespace tokfilter {

/// Allow or forbid plans with host code inside, which version-compatible plans have. TensorRT 8.5 has no such
/// plans.
void allow_host_code(nvinfer1::IRuntime& runtime, bool allowed) noexcept;

/// Load a plugin library for the plans of this runtime. False after a failure, which `log` got.
///
/// From 8.6 on the runtime's registry opens it, and closes it with the runtime. In 8.5 the library is opened
/// with dlopen and never closed, because the process's registry keeps pointers into it: it registers itself
/// (libtokfilter_plugin_static.so), or exports getPluginCreators (libtokfilter_plugin.so).
bool load_plugin_library(nvinfer1::IRuntime& runtime, nvinfer1::ILogger& log, const char* path);

}  // namespace tokfilter
