// Shapes while a network is built: symbolic output shapes, and the bounds of profiles.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

#include "contract.h"

namespace tokfilter {

// Fills the shapes of selected and indices. Empty, or the error about a surplus tensor, a wrong rank or
// constant dimensions that do not agree.
std::string output_shapes(const Config& config, const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                          std::int32_t output_count, nvinfer1::IExprBuilder& builder,
                          nvinfer1::DimsExprs* outputs);

// Empty, or the error about a profile in which no call can succeed. Logs a warning for `layer` where some
// calls cannot.
std::string check_profile(const Config& config, const char* layer,
                          const nvinfer1::DynamicPluginTensorDesc* inputs);

}  // namespace tokfilter
