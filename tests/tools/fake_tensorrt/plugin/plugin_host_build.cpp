// Checks of the build phase: capabilities, types, symbolic shapes, formats, profiles.
#include <cstring>
#include <set>
#include <string>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::TensorFormat;

// Every value of the newest header, whatever header this is compiled with.
constexpr std::int32_t kTypes = 12;
constexpr std::int32_t kFormats = 13;

void capabilities(const Library& library) {
    const PluginPointer plugin = create(library, attributes(3, 1, "score"));
    using Type = nvinfer1::PluginCapabilityType;
    auto* core = static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(Type::kCORE));
    const auto& creator = library.creator();
    check(std::strcmp(core->getInterfaceInfo().kind, "PLUGIN_V3ONE_CORE") == 0, "the core capability is one");
    check(std::strcmp(build_of(*plugin).getInterfaceInfo().kind, "PLUGIN_V3ONE_BUILD") == 0,
          "so is the build one");
    check(std::strcmp(runtime_of(*plugin).getInterfaceInfo().kind, "PLUGIN_V3ONE_RUNTIME") == 0,
          "and the runtime one");
    check(plugin->getCapabilityInterface(static_cast<Type>(9)) == nullptr, "an unknown capability is null");
    check(std::strcmp(core->getPluginName(), creator.getPluginName()) == 0,
          "plugin and creator have one name");
    check(std::strcmp(core->getPluginVersion(), creator.getPluginVersion()) == 0, "one version");
    check(std::strcmp(core->getPluginNamespace(), creator.getPluginNamespace()) == 0, "one namespace");
    check(std::strcmp(build_of(*plugin).getMetadataString(), "k=3;prefix_tokens=1;order=score") == 0,
          "metadata");
    check(build_of(*plugin).getNbOutputs() == 2, "two outputs");
    check(build_of(*plugin).getNbTactics() == 0, "no tactics");
}

// [B, R, C] and [B, N], with slots of length K, all symbolic; the outputs are evaluated at some sizes.
void symbolic_shapes(const Library& library, bool slots) {
    const PluginPointer plugin = create(library, attributes(slots ? 0 : 7, 5, "position"));
    ExpressionBuilder builder;
    const Expression& batch = builder.symbol("B");
    const DimsExprs inputs[] = {{3, {&batch, &builder.symbol("R"), &builder.symbol("C")}},
                                {2, {&batch, &builder.symbol("N")}},
                                {1, {&builder.symbol("K")}}};
    DimsExprs outputs[2]{};
    check(build_of(*plugin).getOutputShapes(inputs, slots ? 3 : 2, nullptr, 0, outputs, 2, builder) == 0,
          "shapes");
    check(outputs[0].nbDims == 3 && outputs[1].nbDims == 2, "ranks 3 and 2");
    for (const std::int64_t k : {1, 7, 196}) {
        const Expression::Names names{{"B", 8}, {"R", 201}, {"C", 384}, {"N", 196}, {"K", k}};
        const auto at = [&](int output, int dim) {
            return dynamic_cast<const Expression&>(*outputs[output].d[dim]).evaluate(names);
        };
        const std::int64_t kept = slots ? k : 7;
        check(at(0, 0) == 8 && at(0, 1) == 5 + kept && at(0, 2) == 384, "selected is [B, P+k, C]");
        check(at(1, 0) == 8 && at(1, 1) == kept, "indices is [B, k]");
    }
}

// Walks every (type, format) of every tensor as TensorRT does: a position only where all before it were
// accepted.
void formats(const Library& library, bool slots) {
    const PluginPointer plugin = create(library, attributes(slots ? 0 : 7, 1, "position"));
    const std::int32_t inputs = slots ? 3 : 2;
    std::vector<DynamicPluginTensorDesc> tensors(static_cast<std::size_t>(inputs) + 2);
    std::set<std::string> accepted;
    const auto visit = [&](const auto& self, std::size_t position, const std::string& so_far) -> void {
        if (position == tensors.size()) {
            accepted.insert(so_far);
            return;
        }
        for (std::int32_t choice = 0; choice < kTypes * kFormats; ++choice) {
            tensors[position].desc.type = static_cast<DataType>(choice % kTypes);
            tensors[position].desc.format = static_cast<TensorFormat>(choice / kTypes);
            if (build_of(*plugin).supportsFormatCombination(static_cast<std::int32_t>(position),
                                                            tensors.data(), inputs, 2)) {
                check(choice / kTypes == 0, "only linear formats are accepted");
                self(self, position + 1, so_far + " " + std::to_string(choice % kTypes));
            }
        }
    };
    visit(visit, 0, "");
    std::set<std::string> expected;
    for (const char* tokens : {"0", "1", "2", "6", "7"}) {  // FP32 FP16 INT8 FP8 BF16
        for (const char* scores : {"0", "1", "7"}) {        // FP32 FP16 BF16
            expected.insert(std::string(" ") + tokens + " " + scores + (slots ? " 3 " : " ") + tokens + " 3");
        }
    }
    check(accepted == expected,
          "15 combinations of types are accepted, got " + std::to_string(accepted.size()));
    check(!build_of(*plugin).supportsFormatCombination(-1, tensors.data(), inputs, 2), "no position -1");
    check(!build_of(*plugin).supportsFormatCombination(inputs + 2, tensors.data(), inputs, 2),
          "nor one past the end");
}

void output_types(const Library& library) {
    const PluginPointer plugin = create(library, attributes(7, 1, "position"));
    for (const DataType type :
         {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT8, DataType::kFP8}) {
        const DataType inputs[] = {type, DataType::kFLOAT};
        DataType outputs[2]{};
        check(build_of(*plugin).getOutputDataTypes(outputs, 2, inputs, 2) == 0, "types are accepted");
        check(outputs[0] == type && outputs[1] == DataType::kINT32,
              "selected has the type of tokens, indices INT32");
    }
}

DynamicPluginTensorDesc ranged(const nvinfer1::PluginTensorDesc& desc, const nvinfer1::Dims& least,
                               const nvinfer1::Dims& most) {
    return {desc, least, most, most};
}

// A profile of patch counts and budgets; returns configurePlugin's status.
std::int32_t configure(nvinfer1::IPluginV3& plugin, Sizes least, Sizes most) {
    const Descs low = describe(least, DataType::kHALF, DataType::kFLOAT);
    const Descs high = describe(most, DataType::kHALF, DataType::kFLOAT);
    std::vector<DynamicPluginTensorDesc> inputs;
    std::vector<DynamicPluginTensorDesc> outputs;
    for (std::size_t i = 0; i < low.inputs.size(); ++i) {
        inputs.push_back(ranged(high.inputs[i], low.inputs[i].dims, high.inputs[i].dims));
    }
    for (std::size_t i = 0; i < low.outputs.size(); ++i) {
        outputs.push_back(ranged(high.outputs[i], low.outputs[i].dims, high.outputs[i].dims));
    }
    auto& build = build_of(plugin);
    const auto input_count = static_cast<std::int32_t>(inputs.size());
    const std::int32_t status = build.configurePlugin(inputs.data(), input_count, outputs.data(), 2);
    check(build.getWorkspaceSize(inputs.data(), input_count, outputs.data(), 2) == 0, "no workspace");
    return status;
}

void profiles(const Library& library, Logger& logger) {
    const PluginPointer fixed = create(library, attributes(98, 1, "position"));
    check(
        configure(*fixed, {1, 1, 196, 384, 98, false}, {64, 1, 196, 384, 98, false}) == 0 && logger.silent(),
        "a profile of batches is accepted without a word");
    check(configure(*fixed, {1, 1, 64, 384, 98, false}, {64, 1, 256, 384, 98, false}) == 0 &&
              logger.has(nvinfer1::ILogger::Severity::kWARNING, {"k = 98", "64 patch tokens"}),
          "a profile that allows fewer patches than k warns");
    check(configure(*fixed, {1, 1, 64, 384, 98, false}, {64, 1, 97, 384, 98, false}) != 0 &&
              logger.has_error({"budget k", "97", "98"}),
          "a profile whose largest patch count is below k is refused");
    const PluginPointer chosen = create(library, attributes(0, 1, "position"));
    check(
        configure(*chosen, {1, 1, 196, 384, 16, true}, {64, 1, 196, 384, 196, true}) == 0 && logger.silent(),
        "a profile of budgets is accepted without a word");
    check(configure(*chosen, {1, 1, 196, 384, 197, true}, {64, 1, 196, 384, 197, true}) != 0 &&
              logger.has_error({"budget k", "196", "197"}),
          "a profile of budgets above the patch count is refused");
}

}  // namespace

void check_build(const Library& library, Logger& logger) {
    capabilities(library);
    for (const bool slots : {false, true}) {
        symbolic_shapes(library, slots);
        formats(library, slots);
    }
    output_types(library);
    check(logger.silent(), "the build phase logs nothing when all is well");
    profiles(library, logger);
}

}  // namespace host
