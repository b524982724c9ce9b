#include "call.h"

#include <initializer_list>

#include "check_args.h"
#include "text.h"
#include "versions.h"

namespace tokfilter {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

bool is_score_type(DataType type) noexcept {
    return type == DataType::kFLOAT || type == DataType::kHALF || (!kIsVersion2 && type == kBf16);
}

// Rows are copied without arithmetic, so INT8 and FP8 are allowed, with one scale for input and output: in
// strongly typed networks, which 8.x does not have.
bool is_token_type(DataType type) noexcept {
    return is_score_type(type) || (!kIsVersion2 && (type == DataType::kINT8 || type == kFp8));
}

constexpr const char* kTokenTypes = kIsVersion2 ? "FP32 or FP16" : "FP32, FP16, BF16, INT8 or FP8";
constexpr const char* kScoreTypes = kIsVersion2 ? "FP32 or FP16" : "FP32, FP16 or BF16";

std::int32_t bytes_of(DataType type) noexcept {
    if (type == DataType::kFLOAT) {
        return 4;
    }
    return is_score_type(type) ? 2 : 1;
}

ScoreType score_type_of(DataType type) noexcept {
    if (type == DataType::kHALF) {
        return ScoreType::kFloat16;
    }
    return type == kBf16 ? ScoreType::kBFloat16 : ScoreType::kFloat32;
}

bool equals(const Dims& dims, std::initializer_list<std::int64_t> expected) noexcept {
    if (dims.nbDims != static_cast<std::int32_t>(expected.size())) {
        return false;
    }
    const auto* dim = dims.d;
    for (const std::int64_t size : expected) {
        if (*dim++ != size) {
            return false;
        }
    }
    return true;
}

std::string check_ranks(const Config& config, const PluginTensorDesc* inputs) {
    const Dims& tokens = inputs[kTokens].dims;
    const Dims& scores = inputs[kScores].dims;
    if (tokens.nbDims != 3 || scores.nbDims != 2) {
        return text("expects tokens [B, P+N, C] and scores [B, N], got tokens ", tokens, " and scores ",
                    scores, ".");
    }
    if (config.k == 0 && inputs[kSlots].dims.nbDims != 1) {
        return text("expects slots [k], got ", inputs[kSlots].dims, ".");
    }
    return {};
}

std::string check_shapes(const Dims& tokens, const Dims& scores, const TokenSelectArgs& args) {
    if (scores.d[0] != args.batch || tokens.d[1] != args.prefix + args.patches) {
        return text("expects one score per patch token: tokens ", tokens, " with ", args.prefix,
                    " prefix tokens ask for scores [", args.batch, ", ", tokens.d[1] - args.prefix, "], got ",
                    scores, ".");
    }
    if (args.batch < 1 || args.patches < 1 || args.channels < 1) {
        return text("expects no empty dimension, got tokens ", tokens, " and scores ", scores, ".");
    }
    if (args.k < 1 || args.k > args.patches) {
        return text("expects a budget k between 1 and ", args.patches, " patch tokens, got ", args.k, ".");
    }
    if (const char* message = check_sizes(args)) {
        return text("the kernel does not support tokens ", tokens, " and scores ", scores, ": ", message,
                    ".");
    }
    return {};
}

// Indices are not checked: TensorRT may leave their description empty where the network does not use them.
std::string check_outputs(const PluginTensorDesc* outputs, DataType type, const TokenSelectArgs& args) {
    const PluginTensorDesc& selected = outputs[kSelected];
    if (!equals(selected.dims, {args.batch, args.prefix + args.k, args.channels}) || selected.type != type) {
        return text("expects selected ", type, " [", args.batch, ", ", args.prefix + args.k, ", ",
                    args.channels, "], got ", selected.type, " ", selected.dims, ".");
    }
    return {};
}

}  // namespace

std::string check_counts(const Config& config, std::int32_t inputs, std::int32_t outputs) {
    if (outputs != kOutputs) {
        return text("has two outputs, selected and indices (the second may stay unused), got ", outputs, ".");
    }
    if (config.k == 0 && inputs != 3) {
        return text(
            "k is 0, so the budget is the length of a third input: expects tokens, scores and slots, got ",
            inputs, " inputs.");
    }
    if (config.k != 0 && inputs != 2) {
        return text("k is ", config.k, ", so it expects two inputs, tokens and scores, got ", inputs,
                    ". To choose the budget by the length of slots, set k to 0.");
    }
    return {};
}

std::string check_types(const DataType* types, std::int32_t inputs) {
    if (!is_token_type(types[kTokens])) {
        return text("expects tokens of type ", kTokenTypes, ", got ", types[kTokens], ".");
    }
    if (!is_score_type(types[kScores])) {
        return text("expects scores of type ", kScoreTypes, ", got ", types[kScores], ".");
    }
    if (inputs > kSlots && types[kSlots] != DataType::kINT32) {
        return text("expects slots of type INT32, got ", types[kSlots], ".");
    }
    return {};
}

bool supports(std::int32_t position, const PluginTensorDesc& tensor, DataType tokens,
              std::int32_t input_count) noexcept {
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) {
        return false;
    }
    if (position == kTokens) {
        return is_token_type(tensor.type);
    }
    if (position == kScores) {
        // A weakly typed builder that may choose FP16 for the scores would create ties. FP16 scores of a
        // graph become FP32 without loss.
        return kIsVersion2 ? tensor.type == DataType::kFLOAT : is_score_type(tensor.type);
    }
    // The other tensors: slots, selected, indices.
    return tensor.type == (position == input_count + kSelected ? tokens : DataType::kINT32);
}

std::string read_call(const Config& config, const PluginTensorDesc* inputs, std::int32_t input_count,
                      const PluginTensorDesc* outputs, std::int32_t output_count, TokenSelectArgs& args) {
    std::string error = check_counts(config, input_count, output_count);
    if (error.empty()) {
        error = check_ranks(config, inputs);
    }
    if (error.empty()) {
        const DataType types[] = {inputs[kTokens].type, inputs[kScores].type};
        error = check_types(types, 2);
    }
    if (!error.empty()) {
        return error;
    }
    const Dims& tokens = inputs[kTokens].dims;
    const Dims& scores = inputs[kScores].dims;
    args.batch = tokens.d[0];
    args.prefix = config.prefix_tokens;
    args.patches = scores.d[1];
    args.channels = tokens.d[2];
    args.k = config.k == 0 ? inputs[kSlots].dims.d[0] : config.k;
    args.element_size = bytes_of(inputs[kTokens].type);
    args.score_type = score_type_of(inputs[kScores].type);
    args.order = config.order;
    error = check_shapes(tokens, scores, args);
    return error.empty() ? check_outputs(outputs, inputs[kTokens].type, args) : error;
}

}  // namespace tokfilter
