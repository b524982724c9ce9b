#include "plugin.h"

#include "launch.h"
#include "log.h"
#include "shapes.h"

namespace tokfilter {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IExprBuilder;
using nvinfer1::IPluginV2DynamicExt;
using nvinfer1::PluginTensorDesc;

namespace {

bool has_wildcard(const DynamicPluginTensorDesc* inputs, std::int32_t input_count) noexcept {
    for (std::int32_t i = 0; i < input_count; ++i) {
        const nvinfer1::Dims& dims = inputs[i].desc.dims;
        for (std::int32_t d = 0; d < dims.nbDims; ++d) {
            if (dims.d[d] < 0) {
                return true;
            }
        }
    }
    return false;
}

}  // namespace

TokenSelectPlugin::TokenSelectPlugin(const Config& config, const std::string& layer)
    : config_(config), layer_(layer) {}

IPluginV2DynamicExt* TokenSelectPlugin::clone() const noexcept {
    return guarded<IPluginV2DynamicExt*>(layer_.c_str(), "clone", nullptr,
                                         [this] { return new TokenSelectPlugin(config_, layer_); });
}

DataType TokenSelectPlugin::getOutputDataType(std::int32_t index, const DataType* input_types,
                                              std::int32_t input_count) const noexcept {
    return guarded(layer_.c_str(), "getOutputDataType", DataType::kFLOAT, [&] {
        std::string error = check_counts(config_, input_count, kOutputs);
        if (error.empty()) {
            error = check_types(input_types, input_count);
        }
        if (!error.empty()) {
            // There is no error status here; supportsFormatCombination() ends the build.
            log_message(Severity::kERROR, layer_.c_str(), error);
        }
        return index == kIndices || input_count < 1 ? DataType::kINT32 : input_types[kTokens];
    });
}

DimsExprs TokenSelectPlugin::getOutputDimensions(std::int32_t index, const DimsExprs* inputs,
                                                 std::int32_t input_count, IExprBuilder& builder) noexcept {
    DimsExprs outputs[kOutputs]{};
    const bool known = guarded(layer_.c_str(), "getOutputDimensions", false, [&] {
        const std::string error = output_shapes(config_, inputs, input_count, kOutputs, builder, outputs);
        if (!error.empty()) {
            log_message(Severity::kERROR, layer_.c_str(), error);
        }
        return error.empty();
    });
    return known ? outputs[index == kIndices ? kIndices : kSelected] : DimsExprs{-1, {}};
}

bool TokenSelectPlugin::supportsFormatCombination(std::int32_t position, const PluginTensorDesc* tensors,
                                                  std::int32_t input_count,
                                                  std::int32_t output_count) noexcept {
    return position >= 0 && position < input_count + output_count &&
           supports(position, tensors[position], tensors[kTokens].type, input_count);
}

void TokenSelectPlugin::configurePlugin(const DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                        const DynamicPluginTensorDesc* /*outputs*/,
                                        std::int32_t output_count) noexcept {
    guarded(layer_.c_str(), "configurePlugin", false, [&] {
        std::string error = check_counts(config_, input_count, output_count);
        // Without a wildcard the shapes are those of the next enqueue(), which checks them.
        if (error.empty() && has_wildcard(inputs, input_count)) {
            error = check_profile(config_, layer_.c_str(), inputs);
        }
        if (!error.empty()) {
            log_message(Severity::kERROR, layer_.c_str(), error);  // the build ends at enqueue()
        }
        return error.empty();
    });
}

std::size_t TokenSelectPlugin::getWorkspaceSize(const PluginTensorDesc* /*inputs*/,
                                                std::int32_t /*input_count*/,
                                                const PluginTensorDesc* /*outputs*/,
                                                std::int32_t /*output_count*/) const noexcept {
    return 0;
}

std::int32_t TokenSelectPlugin::enqueue(const PluginTensorDesc* input_descs,
                                        const PluginTensorDesc* output_descs, const void* const* inputs,
                                        void* const* outputs, void* /*workspace*/,
                                        cudaStream_t stream) noexcept {
    return enqueue_call(config_, layer_.c_str(), input_descs, output_descs, inputs, outputs, stream);
}

}  // namespace tokfilter
