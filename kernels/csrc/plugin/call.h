// One call of TokenSelect: checks of TensorRT's tensor descriptions, and their conversion to launcher
// arguments.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

#include "contract.h"
#include "token_select.h"

namespace tokfilter {

// Positions of the tensors.
enum Input : std::int32_t { kTokens = 0, kScores = 1, kSlots = 2 };
enum Output : std::int32_t { kSelected = 0, kIndices = 1 };
inline constexpr std::int32_t kOutputs = 2;

// Empty, or the error about a missing or surplus tensor for these attributes.
std::string check_counts(const Config& config, std::int32_t inputs, std::int32_t outputs);

// Empty, or the error about an input of an unsupported type.
std::string check_types(const nvinfer1::DataType* types, std::int32_t inputs);

// Whether `tensor` may be at `position` (inputs, then outputs) beside tokens of type `tokens`: linear
// formats, and the types of the contract that this TensorRT has.
bool supports(std::int32_t position, const nvinfer1::PluginTensorDesc& tensor, nvinfer1::DataType tokens,
              std::int32_t input_count) noexcept;

// Fills the sizes and types of `args` (not its pointers) from the tensors of one call. Returns an empty
// string, or the error about the first invalid shape or type. Allocates no memory for a valid call.
std::string read_call(const Config& config, const nvinfer1::PluginTensorDesc* inputs,
                      std::int32_t input_count, const nvinfer1::PluginTensorDesc* outputs,
                      std::int32_t output_count, TokenSelectArgs& args);

}  // namespace tokfilter
