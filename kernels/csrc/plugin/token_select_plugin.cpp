#include "token_select_plugin.h"

#include <cuda_runtime_api.h>

#include "call.h"
#include "check_args.h"
#include "log.h"
#include "text.h"

namespace tokfilter {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::IExprBuilder;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace {

// The prefix rows and the kept rows; null where TensorRT gives no expression.
const IDimensionExpr* kept_rows(const Config& config, const IDimensionExpr& budget, IExprBuilder& builder) {
    if (config.k != 0) {
        return builder.constant(std::int64_t{config.prefix_tokens} + config.k);
    }
    const IDimensionExpr* prefix = builder.constant(config.prefix_tokens);
    return prefix == nullptr ? nullptr : builder.operation(DimensionOperation::kSUM, *prefix, budget);
}

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
        rows.getConstantValue() != config.prefix_tokens + patches.getConstantValue()) {
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

}  // namespace

TokenSelectPlugin::TokenSelectPlugin(const Config& config, const std::string& layer)
    : config_(config),
      layer_(layer),
      description_(describe(config)),
      fields_(fields_of(config_)),
      serialized_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginCapability* TokenSelectPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;  // a capability of a later TensorRT
}

IPluginV3* TokenSelectPlugin::clone() noexcept {
    return guarded<IPluginV3*>(layer_.c_str(), "clone", nullptr,
                               [this] { return new TokenSelectPlugin(config_, layer_); });
}

IPluginV3* TokenSelectPlugin::attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept {
    return clone();
}

std::int32_t TokenSelectPlugin::fail(const std::string& error, std::int32_t status) const noexcept {
    log_message(Severity::kERROR, layer_.c_str(), error);
    return status;
}

std::int32_t TokenSelectPlugin::getOutputDataTypes(DataType* output_types, std::int32_t output_count,
                                                   const DataType* input_types,
                                                   std::int32_t input_count) const noexcept {
    return guarded(layer_.c_str(), "getOutputDataTypes", 1, [&] {
        std::string error = check_counts(config_, input_count, output_count);
        if (error.empty()) {
            error = check_types(input_types, input_count);
        }
        if (!error.empty()) {
            return fail(error);
        }
        output_types[kSelected] = input_types[kTokens];
        output_types[kIndices] = DataType::kINT32;
        return 0;
    });
}

std::int32_t TokenSelectPlugin::getOutputShapes(const DimsExprs* inputs, std::int32_t input_count,
                                                const DimsExprs* /*shape_inputs*/,
                                                std::int32_t shape_input_count, DimsExprs* outputs,
                                                std::int32_t output_count, IExprBuilder& builder) noexcept {
    return guarded(layer_.c_str(), "getOutputShapes", 1, [&] {
        std::string error = check_counts(config_, input_count, output_count);
        if (error.empty() && shape_input_count != 0) {
            error = text("expects no shape tensors (the budget is a length), got ", shape_input_count, ".");
        }
        if (error.empty()) {
            error = check_ranks(inputs, input_count);
        }
        if (error.empty()) {
            error = check_constants(config_, inputs);
        }
        if (!error.empty()) {
            return fail(error);
        }
        const IDimensionExpr* k = config_.k != 0 ? builder.constant(config_.k) : inputs[kSlots].d[0];
        const IDimensionExpr* rows = k == nullptr ? nullptr : kept_rows(config_, *k, builder);
        if (rows == nullptr) {
            return fail("TensorRT built no expression for the number of kept tokens.");
        }
        outputs[kSelected].nbDims = 3;
        outputs[kSelected].d[0] = inputs[kTokens].d[0];
        outputs[kSelected].d[1] = rows;
        outputs[kSelected].d[2] = inputs[kTokens].d[2];
        outputs[kIndices].nbDims = 2;
        outputs[kIndices].d[0] = inputs[kTokens].d[0];
        outputs[kIndices].d[1] = k;
        return 0;
    });
}

bool TokenSelectPlugin::supportsFormatCombination(std::int32_t position,
                                                  const DynamicPluginTensorDesc* tensors,
                                                  std::int32_t input_count,
                                                  std::int32_t output_count) noexcept {
    if (position < 0 || position >= input_count + output_count) {
        return false;
    }
    const PluginTensorDesc& tensor = tensors[position].desc;
    if (tensor.format != TensorFormat::kLINEAR) {
        return false;
    }
    if (position == kTokens) {
        return is_token_type(tensor.type);
    }
    if (position == kScores) {
        return is_score_type(tensor.type);
    }
    // The other tensors: slots, selected, indices.
    return tensor.type ==
           (position == input_count + kSelected ? tensors[kTokens].desc.type : DataType::kINT32);
}

std::int32_t TokenSelectPlugin::configurePlugin(const DynamicPluginTensorDesc* inputs,
                                                std::int32_t input_count,
                                                const DynamicPluginTensorDesc* /*outputs*/,
                                                std::int32_t output_count) noexcept {
    return guarded(layer_.c_str(), "configurePlugin", 1, [&] {
        const std::string error = check_counts(config_, input_count, output_count);
        if (!error.empty()) {
            return fail(error);
        }
        // Shapes of a wrong rank were refused in getOutputShapes().
        const DynamicPluginTensorDesc& scores = inputs[kScores];
        const std::int64_t least_k = config_.k != 0 ? config_.k : inputs[kSlots].min.d[0];
        const std::int64_t most_k = config_.k != 0 ? config_.k : inputs[kSlots].max.d[0];
        if (least_k > scores.max.d[1]) {
            return fail(text("expects a budget k of at most ", scores.max.d[1],
                             ", the most patch tokens that this profile has, got ", least_k, "."));
        }
        if (scores.max.d[1] > kMaxPatches) {
            return fail(text("expects at most ", kMaxPatches, " patch tokens, this profile allows ",
                             scores.max.d[1], "."));
        }
        if (most_k > scores.min.d[1]) {
            log_message(Severity::kWARNING, layer_.c_str(),
                        text("this profile allows k = ", most_k, " and as few as ", scores.min.d[1],
                             " patch tokens: a run with fewer patch tokens than k will fail."));
        }
        return 0;
    });
}

std::size_t TokenSelectPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* /*inputs*/,
                                                std::int32_t /*input_count*/,
                                                const DynamicPluginTensorDesc* /*outputs*/,
                                                std::int32_t /*output_count*/) const noexcept {
    return 0;
}

std::int32_t TokenSelectPlugin::onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count,
                                              const PluginTensorDesc* outputs,
                                              std::int32_t output_count) noexcept {
    return guarded(layer_.c_str(), "onShapeChange", 1, [&] {
        TokenSelectArgs args{};
        const std::string error = read_call(config_, inputs, input_count, outputs, output_count, args);
        return error.empty() ? 0 : fail(error);
    });
}

std::int32_t TokenSelectPlugin::enqueue(const PluginTensorDesc* input_descs,
                                        const PluginTensorDesc* output_descs, const void* const* inputs,
                                        void* const* outputs, void* /*workspace*/,
                                        cudaStream_t stream) noexcept {
    return guarded<std::int32_t>(layer_.c_str(), "enqueue", cudaErrorUnknown, [&] {
        TokenSelectArgs args{};
        const std::string error =
            read_call(config_, input_descs, config_.k == 0 ? 3 : 2, output_descs, getNbOutputs(), args);
        if (!error.empty()) {
            return fail(error, cudaErrorInvalidValue);
        }
        args.tokens = inputs[kTokens];
        args.scores = inputs[kScores];
        args.selected = outputs[kSelected];
        args.indices = static_cast<std::int32_t*>(outputs[kIndices]);
        const int status = token_select(args, stream);
        if (status == cudaSuccess) {
            return 0;
        }
        if (const char* message = validate_token_select(args)) {
            return fail(text("the kernel rejects the call: ", message), status);
        }
        const auto cuda_error = static_cast<cudaError_t>(status);
        return fail(
            text("the kernel was not launched for tokens ", input_descs[kTokens].dims, " and k ", args.k,
                 ": ", cudaGetErrorName(cuda_error), ", ", cudaGetErrorString(cuda_error), "."),
            status);
    });
}

}  // namespace tokfilter
