#include "plugin.h"

#include "call.h"
#include "launch.h"
#include "log.h"
#include "shapes.h"
#include "text.h"

namespace tokfilter {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IExprBuilder;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;

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

std::int32_t TokenSelectPlugin::fail(const std::string& error) const noexcept {
    log_message(Severity::kERROR, layer_.c_str(), error);
    return 1;
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
        const std::string error =
            shape_input_count != 0
                ? text("expects no shape tensors (the budget is a length), got ", shape_input_count, ".")
                : output_shapes(config_, inputs, input_count, output_count, builder, outputs);
        return error.empty() ? 0 : fail(error);
    });
}

bool TokenSelectPlugin::supportsFormatCombination(std::int32_t position,
                                                  const DynamicPluginTensorDesc* tensors,
                                                  std::int32_t input_count,
                                                  std::int32_t output_count) noexcept {
    return position >= 0 && position < input_count + output_count &&
           supports(position, tensors[position].desc, tensors[kTokens].desc.type, input_count);
}

std::int32_t TokenSelectPlugin::configurePlugin(const DynamicPluginTensorDesc* inputs,
                                                std::int32_t input_count,
                                                const DynamicPluginTensorDesc* /*outputs*/,
                                                std::int32_t output_count) noexcept {
    return guarded(layer_.c_str(), "configurePlugin", 1, [&] {
        std::string error = check_counts(config_, input_count, output_count);
        if (error.empty()) {
            error = check_profile(config_, layer_.c_str(), inputs);  // ranks: checked in getOutputShapes()
        }
        return error.empty() ? 0 : fail(error);
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
    return enqueue_call(config_, layer_.c_str(), input_descs, output_descs, inputs, outputs, stream);
}

}  // namespace tokfilter
