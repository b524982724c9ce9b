// One call of TokenSelect as TensorRT describes it: which tensors it takes, and what the launcher gets.
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

// Rows are moved, never computed with, so FP8 and INT8 payloads pass as they are (one scale on both sides).
bool is_token_type(nvinfer1::DataType type) noexcept;
bool is_score_type(nvinfer1::DataType type) noexcept;

// Empty, or the sentence that says which tensor is missing or surplus for these attributes.
std::string count_problem(const Config& config, std::int32_t inputs, std::int32_t outputs);

// Empty, or the sentence that names the input whose type is not taken.
std::string type_problem(const nvinfer1::DataType* types, std::int32_t inputs);

// Fills the sizes and types of `args` (not its pointers) from the tensors of one call. Returns an empty
// string, or the sentence that says which shape or type breaks the contract. Allocates nothing where all is
// well.
std::string read_call(const Config& config, const nvinfer1::PluginTensorDesc* inputs,
                      std::int32_t input_count, const nvinfer1::PluginTensorDesc* outputs,
                      std::int32_t output_count, TokenSelectArgs& args);

}  // namespace tokfilter
