// Checks of the build phase: capabilities, types, symbolic shapes, formats, profiles.
#include <cstring>
#include <set>
#include <string>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// Every value of the newest header, whatever header this is compiled with.
constexpr std::int32_t kTypes = 12;
constexpr std::int32_t kFormats = 13;

// The plugin's types, by TensorRT's numbers: FP32 0, FP16 1, INT8 2, FP8 6, BF16 7. In 8.x a builder that may
// choose the scores' type must choose FP32.
#if NV_TENSORRT_MAJOR >= 10
constexpr std::int32_t kTokenTypes[] = {0, 1, 2, 6, 7};
constexpr std::int32_t kScoreTypes[] = {0, 1, 7};
#else
constexpr std::int32_t kTokenTypes[] = {0, 1};
constexpr std::int32_t kScoreTypes[] = {0};
#endif

// [B, R, C] and [B, N], with slots of length K, all symbolic; the outputs are evaluated at some sizes.
void symbolic_shapes(const Library& library, bool slots) {
    const PluginPointer plugin = create(library, attributes(slots ? 0 : 7, 5, "position"));
    ExpressionBuilder builder;
    const Expression& batch = builder.symbol("B");
    const DimsExprs inputs[] = {{3, {&batch, &builder.symbol("R"), &builder.symbol("C")}},
                                {2, {&batch, &builder.symbol("N")}},
                                {1, {&builder.symbol("K")}}};
    DimsExprs outputs[2]{};
    check(output_shapes(*plugin, inputs, slots ? 3 : 2, builder, outputs), "shapes");
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
    std::vector<PluginTensorDesc> tensors(static_cast<std::size_t>(inputs) + 2);
    std::set<std::string> accepted;
    const auto visit = [&](const auto& self, std::size_t position, const std::string& so_far) -> void {
        if (position == tensors.size()) {
            accepted.insert(so_far);
            return;
        }
        for (std::int32_t choice = 0; choice < kTypes * kFormats; ++choice) {
            tensors[position].type = static_cast<DataType>(choice % kTypes);
            tensors[position].format = static_cast<TensorFormat>(choice / kTypes);
            if (supports(*plugin, static_cast<std::int32_t>(position), tensors)) {
                check(choice / kTypes == 0, "only linear formats are accepted");
                self(self, position + 1, so_far + " " + std::to_string(choice % kTypes));
            }
        }
    };
    visit(visit, 0, "");
    std::set<std::string> expected;
    for (const std::int32_t tokens : kTokenTypes) {
        for (const std::int32_t scores : kScoreTypes) {
            expected.insert(" " + std::to_string(tokens) + " " + std::to_string(scores) +
                            (slots ? " 3 " : " ") + std::to_string(tokens) + " 3");
        }
    }
    check(accepted == expected,
          "the combinations of types of the contract are accepted, got " + std::to_string(accepted.size()));
    check(!supports(*plugin, -1, tensors), "no position -1");
    check(!supports(*plugin, inputs + 2, tensors), "nor one past the end");
}

void types(const Library& library) {
    const PluginPointer plugin = create(library, attributes(7, 1, "position"));
    for (const std::int32_t number : kTokenTypes) {
        const auto type = static_cast<DataType>(number);
        check(
            output_types(*plugin, {type, DataType::kFLOAT}) == std::vector<DataType>{type, DataType::kINT32},
            "selected has the type of tokens, indices INT32");
    }
}

// A profile of patch counts and budgets.
bool profile(const PluginPointer& plugin, const Sizes& least, const Sizes& most) {
    return configure(*plugin, describe(least, DataType::kHALF, DataType::kFLOAT),
                     describe(most, DataType::kHALF, DataType::kFLOAT));
}

void profiles(const Library& library, Logger& logger) {
    const PluginPointer fixed = create(library, attributes(98, 1, "position"));
    check(profile(fixed, {1, 1, 196, 384, 98, false}, {64, 1, 196, 384, 98, false}) && logger.silent(),
          "a profile of batches is accepted without a word");
    check(profile(fixed, {1, 1, 64, 384, 98, false}, {64, 1, 256, 384, 98, false}) &&
              logger.has(nvinfer1::ILogger::Severity::kWARNING, {"k = 98", "64 patch tokens"}),
          "a profile that allows fewer patches than k warns");
    check(failed(!profile(fixed, {1, 1, 64, 384, 98, false}, {64, 1, 97, 384, 98, false})) &&
              logger.has_error({"budget k", "97", "98"}),
          "a profile whose largest patch count is below k is refused");
    const PluginPointer chosen = create(library, attributes(0, 1, "position"));
    check(profile(chosen, {1, 1, 196, 384, 16, true}, {64, 1, 196, 384, 196, true}) && logger.silent(),
          "a profile of budgets is accepted without a word");
    check(failed(!profile(chosen, {1, 1, 196, 384, 197, true}, {64, 1, 196, 384, 197, true})) &&
              logger.has_error({"budget k", "196", "197"}),
          "a profile of budgets above the patch count is refused");
}

}  // namespace

void check_build(const Library& library, Logger& logger) {
    const PluginPointer plugin = create(library, attributes(3, 1, "score"));
    check_identity(library, *plugin, logger);
    for (const bool slots : {false, true}) {
        symbolic_shapes(library, slots);
        formats(library, slots);
    }
    types(library);
    check(logger.silent(), "the build phase logs nothing when all is well");
    profiles(library, logger);
}

}  // namespace host
