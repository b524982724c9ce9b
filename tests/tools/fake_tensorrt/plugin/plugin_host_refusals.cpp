// Invalid counts, types, ranks, sizes, budgets and pointers, and a machine without a GPU: status and log
// message.
#include <dlfcn.h>

#include <string>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;

constexpr auto kInt64 = static_cast<DataType>(8);  // no enumerator in 8.x

constexpr Sizes kFixed{2, 1, 6, 8, 3, false};
constexpr Sizes kChosen{2, 1, 6, 8, 3, true};

void wrong_types(const Library& library, Logger& logger) {
    const PluginPointer fixed = create(library, attributes(3, 1, "position"), "filter");
    const PluginPointer chosen = create(library, attributes(0, 1, "position"));
    const auto refused = [&](const PluginPointer& plugin, const std::vector<DataType>& inputs,
                             const std::vector<std::string>& words) {
        const bool none = output_types(*plugin, inputs).empty();
        const std::string last = logger.last();
        check(failed(none) && logger.has_error(words), words.back() + " is a logged error; logged: " + last);
    };
    refused(fixed, {kInt64, DataType::kFLOAT}, {"\"filter\"", "tokens of type FP32", "INT64"});
    refused(fixed, {DataType::kHALF, DataType::kINT8}, {"scores of type FP32", "INT8"});
    refused(chosen, {DataType::kHALF, DataType::kHALF, kInt64}, {"slots of type INT32", "INT64"});
    refused(chosen, {DataType::kHALF, DataType::kHALF}, {"k is 0", "third input", "got 2 inputs"});
    refused(fixed, {DataType::kHALF, DataType::kHALF, DataType::kINT32}, {"k is 3", "two inputs", "got 3"});
}

// Symbolic shapes with some constants; false where the plugin refuses them.
bool shapes(const PluginPointer& plugin, std::int64_t rows, std::int64_t patches, std::int64_t slots,
            std::int32_t token_rank = 3, bool builder_refuses = false) {
    ExpressionBuilder builder;
    const Expression& batch = builder.symbol("B");
    const DimsExprs inputs[] = {{token_rank, {&batch, &builder.number(rows), &builder.number(8)}},
                                {2, {&batch, &builder.number(patches)}},
                                {slots < 0 ? 2 : 1, {&builder.number(slots), &batch}}};
    DimsExprs outputs[2]{};
    builder.refuses = builder_refuses;
    const bool fixed = id_of(*plugin).substr(0, 4) != "k=0;";
    return output_shapes(*plugin, inputs, fixed ? 2 : 3, builder, outputs);
}

void wrong_symbols(const Library& library, Logger& logger) {
    const PluginPointer fixed = create(library, attributes(3, 1, "position"));
    const PluginPointer chosen = create(library, attributes(0, 1, "position"));
    const auto refused = [&](bool given, const std::vector<std::string>& words) {
        const std::string last = logger.last();
        check(!given && logger.has_error(words), words[0] + " is a logged error; logged: " + last);
    };
    check(shapes(fixed, 7, 6, 0) && shapes(chosen, 7, 6, 6) && logger.silent(), "constant shapes pass");
    refused(shapes(fixed, 7, 6, 0, 2), {"tokens of 3 dimensions", "got 2 and 2"});
    refused(shapes(chosen, 7, 6, -1), {"slots of 1 dimension", "got 2"});
    refused(shapes(fixed, 7, 7, 0), {"one score per patch token", "7 tokens", "7 scores"});
    refused(shapes(fixed, 3, 2, 0), {"budget k between 1 and 2", "got 3"});
    refused(shapes(chosen, 7, 6, 7), {"budget k between 1 and 6", "got 7"});
    refused(shapes(chosen, 7, 6, 0), {"budget k between 1 and 6", "got 0"});
    refused(shapes(fixed, 7, 6, 0, 3, true), {"no expression"});
    refused(shapes(chosen, 7, 6, 3, 3, true), {"no expression"});
}

void wrong_sizes(const Library& library, Logger& logger) {
    const PluginPointer fixed = create(library, attributes(3, 1, "position"), "filter");
    const PluginPointer chosen = create(library, attributes(0, 1, "position"));
    const auto refused = [&](const PluginPointer& plugin, const Descs& descs,
                             const std::vector<std::string>& words) {
        const bool no = refuses(*plugin, descs, logger);
        const std::string last = logger.last();
        check(no && logger.has_error(words), words[0] + " is a logged error; logged: " + last);
    };
    const auto half = [](const Sizes& sizes) { return describe(sizes, DataType::kHALF, DataType::kFLOAT); };
    check(
        !refuses(*fixed, half(kFixed), logger) && !refuses(*chosen, half(kChosen), logger) && logger.silent(),
        "right sizes pass");
    refused(fixed, half({2, 1, 2, 8, 3, false}), {"budget k between 1 and 2", "got 3", "\"filter\""});
    refused(chosen, half({2, 1, 6, 8, 7, true}), {"budget k between 1 and 6", "got 7"});
    refused(chosen, half({2, 1, 6, 8, 0, true}), {"budget k between 1 and 6", "got 0"});
    refused(fixed, half({2, 1, 0, 8, 3, false}), {"no empty dimension", "[2, 1, 8]", "[2, 0]"});
    refused(fixed, half({2, 1, 6, 0, 3, false}), {"no empty dimension", "[2, 7, 0]"});
    refused(fixed, half({0, 1, 6, 8, 3, false}), {"no empty dimension", "[0, 7, 8]"});
    refused(fixed, half({2, 2, 6, 8, 3, false}),
            {"one score per patch token", "[2, 8, 8]", "[2, 7]", "[2, 6]"});
    refused(fixed, half({2, 1, 8193, 8, 3, false}), {"the kernel does not support", "[2, 8194, 8]", "8192"});
    refused(fixed, half({2, 1, 6, std::int64_t{1} << 30, 3, false}),
            {"the kernel does not support", "1073741824", "2^31"});
    refused(chosen, half(kFixed), {"k is 0", "got 2 inputs"});
    refused(fixed, half(kChosen), {"k is 3", "got 3"});
    Descs bent = half(kFixed);
    bent.inputs[0].dims = dims({2, 7, 2, 4});
    refused(fixed, bent, {"tokens [B, P+N, C]", "[2, 7, 2, 4]"});
    bent = half(kChosen);
    bent.inputs[2].dims = dims({1, 3});
    refused(chosen, bent, {"slots [k]", "[1, 3]"});
    bent = half(kFixed);
    bent.outputs[0].dims = dims({2, 3, 8});
    refused(fixed, bent, {"selected FP16 [2, 4, 8]", "[2, 3, 8]"});
    bent = half(kFixed);
    bent.outputs[1] = {};
    check(!refuses(*fixed, bent, logger) && logger.silent(), "unused indices need no description");
    bent = half(kFixed);
    bent.inputs[1].type = DataType::kINT32;
    refused(fixed, bent, {"scores of type", "INT32"});
}

// Errors outlive a logger that throws: they go to stderr and never through the interface.
void broken_logger(const Library& library, Logger& logger, LoggerFinder& finder) {
    finder.throws = true;
    check(create(library, attributes(-1, 1, "position")) == nullptr,
          "a finder that throws changes no result");
    finder.throws = false;
    check(logger.silent(), "nothing reached the logger that was not found");
    check(create(library, attributes(-1, 1, "position")) == nullptr && logger.has_error({"attribute k"}),
          "the finder is asked again for every message");
}

struct Buffers {
    alignas(16) std::uint8_t tokens[2 * 7 * 8 * 4 + 16]{};
    alignas(16) std::uint8_t scores[2 * 6 * 4 + 16]{};
    alignas(16) std::uint8_t selected[2 * 4 * 8 * 4 + 16]{};
    alignas(16) std::uint8_t indices[2 * 3 * 4 + 16]{};
};

std::int32_t run(Plugin& plugin, const std::vector<const void*>& inputs, const std::vector<void*>& outputs) {
    return enqueue(plugin, describe(kFixed, DataType::kFLOAT, DataType::kFLOAT), inputs.data(),
                   outputs.data());
}

}  // namespace

void check_errors(const Library& library, Logger& logger, LoggerFinder& finder) {
    wrong_types(library, logger);
    wrong_symbols(library, logger);
    wrong_sizes(library, logger);
    broken_logger(library, logger, finder);
}

void check_other_finder(const char* plugin, const char* other, Logger& logger, LoggerFinder& finder) {
    void* tensorrt = dlopen(other, RTLD_NOW | RTLD_LOCAL);
    void* opened = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
    const auto other_finder = symbol<tokfilter::LoggerFinder* (*)()>(tensorrt, "other_finder");
    symbol<void (*)(tokfilter::LoggerFinder*)>(opened, "setLoggerFinder")(other_finder());
    const Library library(plugin, finder);
    check(create(library, attributes(-1, 1, "position")) == nullptr && logger.has_error({"attribute k"}),
          "the first finder of this version is used");
    dlclose(opened);
    dlclose(tensorrt);
}

void check_pointers(const Library& library, Logger& logger) {
    const PluginPointer plugin = create(library, attributes(3, 1, "position"), "filter");
    Buffers b;
    const auto refused = [&](const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                             const char* word) {
        const std::int32_t status = run(*plugin, inputs, outputs);
        const std::string last = logger.last();
        check(status != 0 && logger.has_error({"\"filter\"", "the kernel rejects", word}),
              std::string("wrong ") + word + " is a logged error; logged: " + last);
    };
    check(run(*plugin, {b.tokens, b.scores}, {b.selected, b.indices}) == 0, "right pointers pass");
    check(run(*plugin, {b.tokens, b.scores}, {b.selected, nullptr}) == 0, "indices may be null");
    check(logger.silent(), "without a word");
    refused({nullptr, b.scores}, {b.selected, b.indices}, "tokens");
    refused({b.tokens, nullptr}, {b.selected, b.indices}, "scores");
    refused({b.tokens, b.scores}, {nullptr, b.indices}, "selected");
    refused({b.tokens + 1, b.scores}, {b.selected, b.indices}, "tokens");
    refused({b.tokens, b.scores + 1}, {b.selected, b.indices}, "scores");
    refused({b.tokens, b.scores}, {b.selected + 2, b.indices}, "selected");
    refused({b.tokens, b.scores}, {b.selected, b.indices + 1}, "indices");
}

void check_launch_error(const Library& library, Logger& logger) {
    const PluginPointer plugin = create(library, attributes(3, 1, "position"), "filter");
    check(logger.silent(), "a plugin is made without CUDA and without a word");
    Buffers b;
    check(run(*plugin, {b.tokens, b.scores}, {b.selected, b.indices}) != 0, "the CUDA error comes back");
    const std::string last = logger.last();
    check(logger.has_error({"\"filter\"", "tokens [2, 7, 8] and k 3", "cudaError"}),
          "a launch without a GPU logs the name of CUDA's error, logged: " + last);
}

}  // namespace host
