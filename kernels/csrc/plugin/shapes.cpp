#include "shapes.h"

#include <limits>

#include "call.h"
#include "check_args.h"
#include "log.h"
#include "text.h"

namespace tokfilter {
namespace {

using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::IExprBuilder;

std::string check_ranks(const DimsExprs* inputs, std::int32_t input_count) {
    if (inputs[kTokens].nbDims != 3 || inputs[kScores].nbDims != 2) {
        return text("expects tokens of 3 dimensions and scores of 2, got ", inputs[kTokens].nbDims, " and ",
                    inputs[kScores].nbDims, ".");
    }
    if (input_count > kSlots && inputs[kSlots].nbDims != 1) {
        return text("expects slots of 1 dimension, got ", inputs[kSlots].nbDims, ".");
    }
    return {};
}

// Constant dimensions of the network must agree before any profile is known.
std::string check_constants(const Config& config, const DimsExprs* inputs) {
    const IDimensionExpr& rows = *inputs[kTokens].d[1];
    const IDimensionExpr& patches = *inputs[kScores].d[1];
    if (rows.isConstant() && patches.isConstant() &&
        rows.getConstantValue() != std::int64_t{config.prefix_tokens} + patches.getConstantValue()) {
        return text("expects one score per patch token: ", rows.getConstantValue(), " tokens of which ",
                    config.prefix_tokens, " are prefix tokens do not match ", patches.getConstantValue(),
                    " scores.");
    }
    const IDimensionExpr* slots = config.k == 0 ? inputs[kSlots].d[0] : nullptr;
    if (!patches.isConstant() || (slots != nullptr && !slots->isConstant())) {
        return {};
    }
    const std::int64_t k = slots == nullptr ? config.k : slots->getConstantValue();
    if (k < 1 || k > patches.getConstantValue()) {
        return text("expects a budget k between 1 and ", patches.getConstantValue(), " patch tokens, got ", k,
                    ".");
    }
    return {};
}

// The prefix rows and the kept rows; null where TensorRT gives no expression.
const IDimensionExpr* kept_rows(const Config& config, const IDimensionExpr& budget, IExprBuilder& builder) {
    if (config.k != 0) {
        return builder.constant(config.prefix_tokens + config.k);
    }
    const IDimensionExpr* prefix = builder.constant(config.prefix_tokens);
    return prefix == nullptr ? nullptr
                             : builder.operation(nvinfer1::DimensionOperation::kSUM, *prefix, budget);
}

}  // namespace

std::string output_shapes(const Config& config, const DimsExprs* inputs, std::int32_t input_count,
                          std::int32_t output_count, IExprBuilder& builder, DimsExprs* outputs) {
    std::string error = check_counts(config, input_count, output_count);
    if (error.empty() && config.prefix_tokens > std::numeric_limits<std::int32_t>::max() - config.k) {
        error =
            text("expects prefix_tokens + k below 2^31, got ", config.prefix_tokens, " and ", config.k, ".");
    }
    if (error.empty()) {
        error = check_ranks(inputs, input_count);
    }
    if (error.empty()) {
        error = check_constants(config, inputs);
    }
    if (!error.empty()) {
        return error;
    }
    const IDimensionExpr* k = config.k != 0 ? builder.constant(config.k) : inputs[kSlots].d[0];
    const IDimensionExpr* rows = k == nullptr ? nullptr : kept_rows(config, *k, builder);
    if (rows == nullptr) {
        return "TensorRT built no expression for the number of kept tokens.";
    }
    outputs[kSelected].nbDims = 3;
    outputs[kSelected].d[0] = inputs[kTokens].d[0];
    outputs[kSelected].d[1] = rows;
    outputs[kSelected].d[2] = inputs[kTokens].d[2];
    outputs[kIndices].nbDims = 2;
    outputs[kIndices].d[0] = inputs[kTokens].d[0];
    outputs[kIndices].d[1] = k;
    return {};
}

std::string check_profile(const Config& config, const char* layer, const DynamicPluginTensorDesc* inputs) {
    const DynamicPluginTensorDesc& scores = inputs[kScores];
    const std::int64_t least_k = config.k != 0 ? config.k : inputs[kSlots].min.d[0];
    const std::int64_t most_k = config.k != 0 ? config.k : inputs[kSlots].max.d[0];
    if (least_k > scores.max.d[1]) {
        return text("expects a budget k of at most ", scores.max.d[1],
                    ", the most patch tokens that this profile has, got ", least_k, ".");
    }
    if (scores.max.d[1] > kMaxPatches) {
        return text("expects at most ", kMaxPatches, " patch tokens, this profile allows ", scores.max.d[1],
                    ".");
    }
    if (most_k > scores.min.d[1]) {
        log_message(Severity::kWARNING, layer,
                    text("this profile allows k = ", most_k, " and as few as ", scores.min.d[1],
                         " patch tokens: a run with fewer patch tokens than k will fail."));
    }
    return {};
}

}  // namespace tokfilter
