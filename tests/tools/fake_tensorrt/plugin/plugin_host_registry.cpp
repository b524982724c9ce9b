// plugin_host_registry LIBRARY
//
// Fake libnvinfer for the self-registering library: this program exports the registry, the logger and the
// version functions that the library calls in its static constructors. Confirmed by: TensorRT 8.6.0
// (tests/kernels/test_real_tensorrt_8.py); no real libnvinfer of 10 or later (it needs a GPU to be of use
// here).
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "plugin_host.h"

namespace {

#if NV_TENSORRT_MAJOR >= 10
using AnyCreator = nvinfer1::IPluginCreatorInterface;
constexpr int kVersion = NV_TENSORRT_MAJOR;  // what getInferLibMajorVersion() returns
#else
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
using AnyCreator = nvinfer1::IPluginCreator;
constexpr int kVersion =
    NV_TENSORRT_MAJOR * 1000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;  // getInferLibVersion()
#endif

// Holds one creator; functions that the library never calls return null.
class Registry final : public nvinfer1::IPluginRegistry {
  public:
    bool registerCreator(AnyCreator& creator, const char* name) noexcept override {
        if (held != nullptr) {
            return false;
        }
        held = &creator;
        name_space = name;
        return true;
    }
    bool deregisterCreator(const AnyCreator& creator) noexcept override {
        const bool known = held == &creator;
        held = known ? nullptr : held;
        ++deregistrations;
        return known;
    }
    void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
#if NV_TENSORRT_MAJOR >= 10 || NV_TENSORRT_MINOR >= 6
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
#endif
#if NV_TENSORRT_MAJOR >= 10
    AnyCreator* const* getAllCreators(std::int32_t*) const noexcept override { return nullptr; }
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 10
    AnyCreator* const* getAllCreatorsRecursive(std::int32_t*) noexcept override { return nullptr; }
#endif
    AnyCreator* getCreator(const char*, const char*, const char*) noexcept override { return held; }
    nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                     nvinfer1::IPluginResource*) noexcept override {
        return nullptr;
    }
    std::int32_t releasePluginResource(const char*) noexcept override { return 1; }
#endif
#if NV_TENSORRT_MAJOR == 10
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
    nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
        return nullptr;
    }
    nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
#elif NV_TENSORRT_MAJOR < 10
    nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
        return nullptr;
    }
    nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
        return held;
    }
#endif

    AnyCreator* held{nullptr};
    std::string name_space;
    int deregistrations{0};
};

Registry g_registry;
host::Logger g_logger;
int g_version = kVersion;

void* open(const char* path) {
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        throw std::runtime_error(dlerror());
    }
    return handle;
}

void registers_itself(const char* path) {
    void* library = open(path);
    host::check(g_registry.held != nullptr && g_registry.name_space == "tokfilter",
                "registered under its namespace");
    auto& creator = static_cast<host::Creator&>(*g_registry.held);
    host::check(std::strcmp(creator.getPluginName(), "TokenSelect") == 0, "as TokenSelect");
    host::check(dlsym(library, "getCreators") == nullptr && dlsym(library, "getPluginCreators") == nullptr,
                "and no entry point, which would be the registry trap");
    host::Fields wrong = host::attributes(-1, 1, "position");
    host::check(host::create(creator, wrong.get(), "x") == nullptr && g_logger.has_error({"attribute k"}),
                "its errors reach the logger of libnvinfer");
    host::Fields right = host::attributes(3, 1, "position");
    host::check(host::create(creator, right.get(), "x") != nullptr, "it makes plugins");
    dlclose(library);
    host::check(g_registry.held == nullptr, "a closed library leaves no creator behind");
}

void stays_unused(const char* path) {
    AnyCreator* other = reinterpret_cast<AnyCreator*>(&g_registry);
    g_registry.held = other;  // compared only, never called
    const int before = g_registry.deregistrations;
    dlclose(open(path));
    host::check(g_logger.has(nvinfer1::ILogger::Severity::kWARNING, {"another library", "is not registered"}),
                "a second library warns");
    host::check(g_registry.held == other && g_registry.deregistrations == before,
                "and leaves the first one alone");
    g_registry.held = nullptr;
    // The registries of 8.5 and 8.6 differ, as those of two major versions do.
    const int step = NV_TENSORRT_MAJOR >= 10 ? 1 : 100;
    for (const int version : {1, kVersion - step, kVersion + step, 2 * kVersion}) {
        g_version = version;
        dlclose(open(path));
        host::check(g_logger.has_error({"built for TensorRT", "not registered",
                                        "found version " + std::to_string(version)}) &&
                        g_registry.held == nullptr,
                    "version " + std::to_string(version) + " is a logged error");
    }
}

}  // namespace

extern "C" {
nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &g_registry; }
nvinfer1::ILogger* getLogger() noexcept { return &g_logger; }
std::int32_t getInferLibMajorVersion() noexcept { return g_version; }
std::int32_t getInferLibVersion() noexcept { return g_version; }
}

int main(int count, char** arguments) {
    try {
        registers_itself(count > 1 ? arguments[1] : "");
        stays_unused(arguments[1]);
        return host::report();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "FAILED: %s\n", error.what());
        return 1;
    }
}
