// One plugin of class IPluginV2DynamicExt, TensorRT 8.5 and 8.6.
#include <cstring>
#include <limits>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

// As TensorRT describes a profile: -1 where least and most differ.
std::vector<DynamicPluginTensorDesc> ranged(const std::vector<PluginTensorDesc>& least,
                                            const std::vector<PluginTensorDesc>& most) {
    std::vector<DynamicPluginTensorDesc> tensors;
    for (std::size_t i = 0; i < least.size(); ++i) {
        DynamicPluginTensorDesc tensor{most[i], least[i].dims, most[i].dims};
        for (std::int32_t d = 0; d < tensor.min.nbDims; ++d) {
            tensor.desc.dims.d[d] = tensor.min.d[d] == tensor.max.d[d] ? tensor.max.d[d] : -1;
        }
        tensors.push_back(tensor);
    }
    return tensors;
}

// The bytes that an engine holds, at an odd address.
std::vector<char> written(const Plugin& plugin) {
    const std::size_t bytes = plugin.getSerializationSize();
    std::vector<char> buffer(bytes + 2, '\x5A');
    plugin.serialize(buffer.data() + 1);
    check(buffer.front() == '\x5A' && buffer.back() == '\x5A',
          "serialize() writes getSerializationSize() bytes");
    return {buffer.begin() + 1, buffer.end() - 1};
}

PluginPointer read(const Library& library, const void* data, std::size_t bytes) {
    return PluginPointer(static_cast<Plugin*>(library.creator().deserializePlugin("engine", data, bytes)));
}

// TensorRT calls configurePlugin() after every change of shapes.
void before_a_call(Plugin& plugin, const Descs& descs) {
    const auto inputs = ranged(descs.inputs, descs.inputs);
    const auto outputs = ranged(descs.outputs, descs.outputs);
    plugin.configurePlugin(inputs.data(), static_cast<std::int32_t>(inputs.size()), outputs.data(),
                           static_cast<std::int32_t>(outputs.size()));
}

void wrong_bytes(const Library& library, const Plugin& plugin, Logger& logger) {
    const std::vector<char> right = written(plugin);
    const auto refused = [&](const std::vector<char>& bytes, const std::vector<std::string>& words) {
        const bool none = read(library, bytes.data(), bytes.size()) == nullptr;
        const std::string last = logger.last();
        check(none && logger.has_error(words), words.back() + " is a logged error; logged: " + last);
    };
    for (std::size_t length = 0; length < right.size() + 4; ++length) {
        std::vector<char> bytes = right;
        bytes.resize(length);
        if (length != right.size()) {
            refused(bytes, {"\"engine\"", "expects 16 bytes", "got " + std::to_string(length)});
        }
    }
    check(read(library, nullptr, right.size()) == nullptr && logger.has_error({"expects 16 bytes", "got 0"}),
          "null is a logged error");
    const auto with = [&](std::size_t word, std::int32_t value) {
        std::vector<char> bytes = right;
        std::memcpy(bytes.data() + word * sizeof(value), &value, sizeof(value));
        return bytes;
    };
    constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min();
    for (const std::int32_t format : {0, 2, -1}) {
        refused(with(0, format), {"data of format 1", "got " + std::to_string(format)});
    }
    refused(with(1, -1), {"k >= 0", "got -1, 1 and 1"});
    refused(with(2, kLeast), {"prefix_tokens >= 0", "-2147483648"});
    refused(with(3, 2), {"order 0 or 1", "and 2"});
    refused(with(3, -1), {"order 0 or 1", "and -1"});
}

}  // namespace

Creator& creator_of(void* library) {
    std::int32_t number = 0;
    using GetCreators = Creator* const* (*)(std::int32_t&);
    auto* const* creators = symbol<GetCreators>(library, "getPluginCreators")(number);
    check(number == 1, "the library has one creator");
    symbol<void* const* (*)(std::int32_t&)>(library, "getCreators")(number);
    check(number == 0, "TensorRT 10 gets none");
    return *creators[0];
}

void Destroy::operator()(Plugin* plugin) const { plugin->destroy(); }

PluginPointer create(Creator& creator, const nvinfer1::PluginFieldCollection* fields, const char* layer) {
    return PluginPointer(static_cast<Plugin*>(creator.createPlugin(layer, fields)));
}

PluginPointer clone(const Plugin& plugin) { return PluginPointer(plugin.clone()); }

PluginPointer reread(const Library& library, const Plugin& plugin) {
    const std::vector<char> bytes = written(plugin);
    PluginPointer engine = read(library, bytes.data(), bytes.size());
    check(engine != nullptr && engine->initialize() == 0, "the plugin of an engine is initialised");
    return engine;
}

PluginPointer attached(Plugin& plugin) {
    PluginPointer context(plugin.clone());
    if (context != nullptr) {
        context->attachToContext(nullptr, nullptr, nullptr);
        context->detachFromContext();
        context->terminate();
    }
    return context;
}

std::string id_of(const Plugin& plugin) {
    std::int32_t words[4]{};
    const std::vector<char> bytes = written(plugin);
    check(bytes.size() == sizeof(words), "16 bytes");
    std::memcpy(words, bytes.data(), sizeof(words));
    return "k=" + std::to_string(words[1]) + ";prefix_tokens=" + std::to_string(words[2]) +
           ";order=" + (words[3] == 0 ? "position" : "score");
}

void check_identity(const Library& library, Plugin& plugin, Logger& logger) {
    Creator& creator = library.creator();
    for (const char* other : {"", "another"}) {
        creator.setPluginNamespace(other);
        plugin.setPluginNamespace(other);
    }
    check(std::strcmp(plugin.getPluginType(), creator.getPluginName()) == 0,
          "plugin and creator have one name");
    check(std::strcmp(plugin.getPluginVersion(), creator.getPluginVersion()) == 0, "one version");
    check(std::strcmp(plugin.getPluginNamespace(), "tokfilter") == 0 &&
              std::strcmp(creator.getPluginNamespace(), "tokfilter") == 0,
          "one namespace, which nobody changes");
    check(plugin.getNbOutputs() == 2, "two outputs");
    wrong_bytes(library, plugin, logger);
}

std::vector<DataType> output_types(const Plugin& plugin, const std::vector<DataType>& inputs) {
    const auto count = static_cast<std::int32_t>(inputs.size());
    return {plugin.getOutputDataType(0, inputs.data(), count),
            plugin.getOutputDataType(1, inputs.data(), count)};
}

bool output_shapes(Plugin& plugin, const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                   ExpressionBuilder& builder, nvinfer1::DimsExprs* outputs) {
    bool known = true;
    for (std::int32_t i = 0; i < 2; ++i) {
        outputs[i] = plugin.getOutputDimensions(i, inputs, input_count, builder);
        known = known && outputs[i].nbDims >= 0;
    }
    return known;
}

bool supports(Plugin& plugin, std::int32_t position, const std::vector<PluginTensorDesc>& tensors) {
    return plugin.supportsFormatCombination(position, tensors.data(),
                                            static_cast<std::int32_t>(tensors.size()) - 2, 2);
}

bool configure(Plugin& plugin, const Descs& least, const Descs& most) {
    const auto inputs = ranged(least.inputs, most.inputs);
    const auto outputs = ranged(least.outputs, most.outputs);
    const auto count = static_cast<std::int32_t>(inputs.size());
    plugin.configurePlugin(inputs.data(), count, outputs.data(), 2);
    check(plugin.getWorkspaceSize(most.inputs.data(), count, most.outputs.data(), 2) == 0, "no workspace");
    return true;
}

// Surplus or missing tensors are refused in configurePlugin(), others in enqueue(). Tensors that the plugin
// accepts meet the check of the pointers, which are null.
bool refuses(Plugin& plugin, const Descs& descs, Logger& logger) {
    before_a_call(plugin, descs);
    if (logger.last() != "nothing") {
        return true;
    }
    const void* inputs[3]{};
    void* outputs[2]{};
    check(plugin.enqueue(descs.inputs.data(), descs.outputs.data(), inputs, outputs, nullptr, nullptr) != 0,
          "null pointers are an error status");
    return !logger.has_error({"the kernel rejects the call: tokens must not be null"});
}

std::int32_t enqueue(Plugin& plugin, const Descs& descs, const void* const* inputs, void* const* outputs) {
    before_a_call(plugin, descs);
    return plugin.enqueue(descs.inputs.data(), descs.outputs.data(), inputs, outputs, nullptr, nullptr);
}

}  // namespace host
