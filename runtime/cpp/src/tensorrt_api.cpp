#include "tensorrt_api.hpp"

#if NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6

#include <dlfcn.h>

#include <cstdint>

#include "text.hpp"

namespace tokfilter {
namespace {

// kernels/op.py: NAME, VERSION, DOMAIN.
constexpr auto kName = "TokenSelect", kVersion = "1", kNamespace = "tokfilter";

using Creators = nvinfer1::IPluginCreator* const* (*)(std::int32_t&);

void register_all(nvinfer1::IPluginRegistry& registry, Creators creators) {
    std::int32_t count = 0;
    nvinfer1::IPluginCreator* const* const list = creators(count);
    for (std::int32_t i = 0; i < count; ++i) {
        nvinfer1::IPluginCreator& creator = *list[i];
        const char* const space = creator.getPluginNamespace();
        if (registry.getPluginCreator(creator.getPluginName(), creator.getPluginVersion(), space) == nullptr)
            registry.registerCreator(creator, space);
    }
}

}  // namespace

void allow_host_code(nvinfer1::IRuntime&, bool) noexcept {}

bool load_plugin_library(nvinfer1::IRuntime&, nvinfer1::ILogger& log, const char* path) {
    // Not closed after a failure either: it may have registered other plugins.
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const auto failed = [&](const std::string& why) {
        log.log(nvinfer1::ILogger::Severity::kERROR, why.c_str());
        return false;
    };
    if (library == nullptr) return failed(text("dlopen: ", dlerror()));
    nvinfer1::IPluginRegistry& registry = *getPluginRegistry();
    if (const auto creators = reinterpret_cast<Creators>(dlsym(library, "getPluginCreators")))
        register_all(registry, creators);
    if (registry.getPluginCreator(kName, kVersion, kNamespace) != nullptr) return true;
    return failed(text("it registers no plugin ", kName, ", version ", kVersion, ", namespace ", kNamespace));
}

}  // namespace tokfilter

#else

namespace tokfilter {

void allow_host_code(nvinfer1::IRuntime& runtime, bool allowed) noexcept {
    runtime.setEngineHostCodeAllowed(allowed);
}

bool load_plugin_library(nvinfer1::IRuntime& runtime, nvinfer1::ILogger&, const char* path) {
    return runtime.getPluginRegistry().loadLibrary(path) != nullptr;
}

}  // namespace tokfilter

#endif
