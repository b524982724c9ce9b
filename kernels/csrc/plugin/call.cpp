#include "call.h"

#include <initializer_list>

#include "check_args.h"
#include "text.h"

namespace tokfilter {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

std::int32_t bytes_of(DataType type) noexcept {
    switch (type) {
        case DataType::kFLOAT:
            return 4;
        case DataType::kHALF:
        case DataType::kBF16:
            return 2;
        default:
            return 1;  // kINT8, kFP8: is_token_type() lets nothing else pass
    }
}

ScoreType score_type_of(DataType type) noexcept {
    switch (type) {
        case DataType::kHALF:
            return ScoreType::kFloat16;
        case DataType::kBF16:
            return ScoreType::kBFloat16;
        default:
            return ScoreType::kFloat32;
    }
}

bool equals(const Dims& dims, std::initializer_list<std::int64_t> wanted) noexcept {
    if (dims.nbDims != static_cast<std::int32_t>(wanted.size())) {
        return false;
    }
    const auto* dim = dims.d;
    for (const std::int64_t want : wanted) {
        if (*dim++ != want) {
            return false;
        }
    }
    return true;
}

std::string rank_problem(const Config& config, const PluginTensorDesc* inputs) {
    const Dims& tokens = inputs[kTokens].dims;
    const Dims& scores = inputs[kScores].dims;
    if (tokens.nbDims != 3 || scores.nbDims != 2) {
        return text("wants tokens [B, P+N, C] and scores [B, N], got tokens ", tokens, " and scores ", scores,
                    ".");
    }
    if (config.k == 0 && inputs[kSlots].dims.nbDims != 1) {
        return text("wants slots [k], got ", inputs[kSlots].dims, ".");
    }
    return {};
}

std::string size_problem(const Dims& tokens, const Dims& scores, const TokenSelectArgs& args) {
    if (scores.d[0] != args.batch || tokens.d[1] != args.prefix + args.patches) {
        return text("wants one score per patch token: tokens ", tokens, " with ", args.prefix,
                    " prefix tokens ask for scores [", args.batch, ", ", tokens.d[1] - args.prefix, "], got ",
                    scores, ".");
    }
    if (args.batch < 1 || args.patches < 1 || args.channels < 1) {
        return text("wants no empty dimension, got tokens ", tokens, " and scores ", scores, ".");
    }
    if (args.k < 1 || args.k > args.patches) {
        return text("wants a budget k between 1 and ", args.patches, " patch tokens, got ", args.k, ".");
    }
    if (const char* breach = check_sizes(args)) {
        return text("the kernel refuses tokens ", tokens, " and scores ", scores, ": ", breach, ".");
    }
    return {};
}

// TensorRT need not describe indices where the network leaves them unused.
std::string output_problem(const PluginTensorDesc* outputs, DataType type, const TokenSelectArgs& args) {
    const PluginTensorDesc& selected = outputs[kSelected];
    if (!equals(selected.dims, {args.batch, args.prefix + args.k, args.channels}) || selected.type != type) {
        return text("wants selected ", type, " [", args.batch, ", ", args.prefix + args.k, ", ",
                    args.channels, "], got ", selected.type, " ", selected.dims, ".");
    }
    return {};
}

}  // namespace

bool is_token_type(DataType type) noexcept {
    return is_score_type(type) || type == DataType::kINT8 || type == DataType::kFP8;
}

bool is_score_type(DataType type) noexcept {
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

std::string count_problem(const Config& config, std::int32_t inputs, std::int32_t outputs) {
    if (outputs != 2) {
        return text(
            "gives two outputs, selected and indices (leave the second unused where you do not need it), "
            "asked for ",
            outputs, ".");
    }
    if (config.k == 0 && inputs != 3) {
        return text(
            "k is 0, so the budget is the length of a third input: wants tokens, scores and slots, got ",
            inputs, " inputs.");
    }
    if (config.k != 0 && inputs != 2) {
        return text("k is ", config.k, ", so it wants two inputs, tokens and scores, got ", inputs,
                    ". To choose the budget by the length of slots, set k to 0.");
    }
    return {};
}

std::string type_problem(const DataType* types, std::int32_t inputs) {
    if (!is_token_type(types[kTokens])) {
        return text("wants tokens of type FP32, FP16, BF16, INT8 or FP8, got ", types[kTokens], ".");
    }
    if (!is_score_type(types[kScores])) {
        return text("wants scores of type FP32, FP16 or BF16, got ", types[kScores], ".");
    }
    if (inputs > kSlots && types[kSlots] != DataType::kINT32) {
        return text("wants slots of type INT32, got ", types[kSlots], ".");
    }
    return {};
}

std::string read_call(const Config& config, const PluginTensorDesc* inputs, std::int32_t input_count,
                      const PluginTensorDesc* outputs, std::int32_t output_count, TokenSelectArgs& args) {
    std::string problem = count_problem(config, input_count, output_count);
    if (problem.empty()) {
        problem = rank_problem(config, inputs);
    }
    if (problem.empty()) {
        const DataType types[] = {inputs[kTokens].type, inputs[kScores].type};
        problem = type_problem(types, 2);
    }
    if (!problem.empty()) {
        return problem;
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
    problem = size_problem(tokens, scores, args);
    return problem.empty() ? output_problem(outputs, inputs[kTokens].type, args) : problem;
}

}  // namespace tokfilter
