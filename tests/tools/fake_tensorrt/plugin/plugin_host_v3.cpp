// One plugin of class IPluginV3, TensorRT 10.3 to 11.x.
#include <cstring>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::TensorRTPhase;

template <typename Capability>
Capability& capability(const Plugin& plugin, PluginCapabilityType type) {
    return *static_cast<Capability*>(const_cast<Plugin&>(plugin).getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneBuild& build_of(const Plugin& plugin) {
    return capability<nvinfer1::IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime& runtime_of(const Plugin& plugin) {
    return capability<nvinfer1::IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

class ResourceContext final : public nvinfer1::IPluginResourceContext {
  public:
    nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

std::vector<DynamicPluginTensorDesc> ranged(const std::vector<nvinfer1::PluginTensorDesc>& least,
                                            const std::vector<nvinfer1::PluginTensorDesc>& most) {
    std::vector<DynamicPluginTensorDesc> tensors;
    for (std::size_t i = 0; i < least.size(); ++i) {
        tensors.push_back({most[i], least[i].dims, most[i].dims, most[i].dims});
    }
    return tensors;
}

std::int32_t count(const std::vector<nvinfer1::PluginTensorDesc>& tensors) {
    return static_cast<std::int32_t>(tensors.size());
}

}  // namespace

Creator& creator_of(void* library) {
    std::int32_t number = 0;
    using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
    auto* const* creators = symbol<GetCreators>(library, "getCreators")(number);
    check(number == 1, "the library has one creator");
    check(std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0,
          "the creator is a V3One creator");
    symbol<void* const* (*)(std::int32_t&)>(library, "getPluginCreators")(number);
    check(number == 0, "TensorRT 8.6 gets none");
    return static_cast<Creator&>(*creators[0]);
}

void Destroy::operator()(Plugin* plugin) const { delete plugin; }

PluginPointer create(Creator& creator, const nvinfer1::PluginFieldCollection* fields, const char* layer) {
    return PluginPointer(creator.createPlugin(layer, fields, TensorRTPhase::kBUILD));
}

PluginPointer clone(const Plugin& plugin) { return PluginPointer(const_cast<Plugin&>(plugin).clone()); }

PluginPointer reread(const Library& library, const Plugin& plugin) {
    Fields written = copy_of(*runtime_of(plugin).getFieldsToSerialize());
    return PluginPointer(library.creator().createPlugin("layer", written.get(), TensorRTPhase::kRUNTIME));
}

PluginPointer attached(Plugin& plugin) {
    ResourceContext resources;
    return PluginPointer(runtime_of(plugin).attachToContext(&resources));
}

std::string id_of(const Plugin& plugin) { return build_of(plugin).getTimingCacheID(); }

void check_identity(const Library& library, Plugin& plugin, Logger& logger) {
    auto& core = capability<nvinfer1::IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    auto& build = build_of(plugin);
    check(std::strcmp(core.getInterfaceInfo().kind, "PLUGIN_V3ONE_CORE") == 0, "the core capability is one");
    check(std::strcmp(build.getInterfaceInfo().kind, "PLUGIN_V3ONE_BUILD") == 0, "so is the build one");
    check(std::strcmp(runtime_of(plugin).getInterfaceInfo().kind, "PLUGIN_V3ONE_RUNTIME") == 0,
          "and the runtime one");
    check(plugin.getCapabilityInterface(static_cast<PluginCapabilityType>(9)) == nullptr,
          "an unknown capability is null");
    const Creator& creator = library.creator();
    check(std::strcmp(core.getPluginName(), creator.getPluginName()) == 0,
          "plugin and creator have one name");
    check(std::strcmp(core.getPluginVersion(), creator.getPluginVersion()) == 0, "one version");
    check(std::strcmp(core.getPluginNamespace(), creator.getPluginNamespace()) == 0, "one namespace");
    check(build.getMetadataString() == id_of(plugin), "metadata");
    check(build.getNbOutputs() == 2, "two outputs");
    check(build.getNbTactics() == 0, "no tactics");
    const DataType types[] = {DataType::kHALF, DataType::kHALF};
    DataType outputs[1]{};
    check(build.getOutputDataTypes(outputs, 1, types, 2) != 0 && logger.has_error({"two outputs", "got 1"}),
          "one output is refused");
    nvinfer1::DimsExprs shapes[2]{};
    ExpressionBuilder builder;
    check(build.getOutputShapes(nullptr, 2, nullptr, 1, shapes, 2, builder) != 0 &&
              logger.has_error({"no shape tensors", "got 1"}),
          "a shape tensor is refused");
}

std::vector<DataType> output_types(const Plugin& plugin, const std::vector<DataType>& inputs) {
    std::vector<DataType> outputs(2);
    const std::int32_t status = build_of(plugin).getOutputDataTypes(outputs.data(), 2, inputs.data(),
                                                                    static_cast<std::int32_t>(inputs.size()));
    return status == 0 ? outputs : std::vector<DataType>();
}

bool output_shapes(Plugin& plugin, const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                   ExpressionBuilder& builder, nvinfer1::DimsExprs* outputs) {
    return build_of(plugin).getOutputShapes(inputs, input_count, nullptr, 0, outputs, 2, builder) == 0;
}

bool supports(Plugin& plugin, std::int32_t position, const std::vector<nvinfer1::PluginTensorDesc>& tensors) {
    return build_of(plugin).supportsFormatCombination(position, ranged(tensors, tensors).data(),
                                                      count(tensors) - 2, 2);
}

bool configure(Plugin& plugin, const Descs& least, const Descs& most) {
    const auto inputs = ranged(least.inputs, most.inputs);
    const auto outputs = ranged(least.outputs, most.outputs);
    const std::int32_t inputs_count = count(least.inputs);
    const bool accepted =
        build_of(plugin).configurePlugin(inputs.data(), inputs_count, outputs.data(), 2) == 0;
    check(build_of(plugin).getWorkspaceSize(inputs.data(), inputs_count, outputs.data(), 2) == 0,
          "no workspace");
    return accepted;
}

bool refuses(Plugin& plugin, const Descs& descs, Logger& /*logger*/) {
    return runtime_of(plugin).onShapeChange(descs.inputs.data(), count(descs.inputs), descs.outputs.data(),
                                            count(descs.outputs)) != 0;
}

std::int32_t enqueue(Plugin& plugin, const Descs& descs, const void* const* inputs, void* const* outputs) {
    const std::int32_t status = runtime_of(plugin).onShapeChange(descs.inputs.data(), count(descs.inputs),
                                                                 descs.outputs.data(), count(descs.outputs));
    return status != 0 ? status
                       : runtime_of(plugin).enqueue(descs.inputs.data(), descs.outputs.data(), inputs,
                                                    outputs, nullptr, nullptr);
}

}  // namespace host
