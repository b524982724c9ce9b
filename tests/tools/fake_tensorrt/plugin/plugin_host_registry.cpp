// plugin_host_registry LIBRARY
//
// Fake libnvinfer for the self-registering library: this program exports the registry, the logger and the
// version functions that the library calls in its static constructors. Confirmed by: no real library
// (libnvinfer needs a GPU to be of use here, and TensorRT-RTX has other symbols).
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "plugin_host.h"

namespace {

using nvinfer1::IPluginCreatorInterface;

// Holds one creator; functions that the library never calls return null.
class Registry final : public nvinfer1::IPluginRegistry {
  public:
    bool registerCreator(IPluginCreatorInterface& creator, const char* name) noexcept override {
        if (held != nullptr) {
            return false;
        }
        held = &creator;
        name_space = name;
        return true;
    }
    bool deregisterCreator(const IPluginCreatorInterface& creator) noexcept override {
        const bool known = held == &creator;
        held = known ? nullptr : held;
        ++deregistrations;
        return known;
    }
    void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    IPluginCreatorInterface* const* getAllCreators(std::int32_t*) const noexcept override { return nullptr; }
    IPluginCreatorInterface* const* getAllCreatorsRecursive(std::int32_t*) noexcept override {
        return nullptr;
    }
    IPluginCreatorInterface* getCreator(const char*, const char*, const char*) noexcept override {
        return held;
    }
    nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                     nvinfer1::IPluginResource*) noexcept override {
        return nullptr;
    }
    std::int32_t releasePluginResource(const char*) noexcept override { return 1; }
#if NV_TENSORRT_MAJOR < 11
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
    nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
        return nullptr;
    }
    nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
#endif

    IPluginCreatorInterface* held{nullptr};
    std::string name_space;
    int deregistrations{0};
};

Registry g_registry;
host::Logger g_logger;
int g_major = NV_TENSORRT_MAJOR;

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
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(g_registry.held);
    host::check(std::strcmp(creator->getPluginName(), "TokenSelect") == 0, "as TokenSelect");
    host::check(dlsym(library, "getCreators") == nullptr,
                "and no getCreators, which would be the registry trap");
    host::Fields wrong = host::attributes(-1, 1, "position");
    const auto phase = nvinfer1::TensorRTPhase::kBUILD;
    host::check(
        creator->createPlugin("x", wrong.get(), phase) == nullptr && g_logger.has_error({"attribute k"}),
        "its errors reach the logger of libnvinfer");
    host::Fields right = host::attributes(3, 1, "position");
    host::check(host::PluginPointer(creator->createPlugin("x", right.get(), phase)) != nullptr,
                "it makes plugins");
    dlclose(library);
    host::check(g_registry.held == nullptr, "a closed library leaves no creator behind");
}

void stays_unused(const char* path) {
    nvinfer1::IPluginCreatorInterface* other =
        reinterpret_cast<nvinfer1::IPluginCreatorInterface*>(&g_registry);
    g_registry.held = other;  // compared only, never called
    const int before = g_registry.deregistrations;
    dlclose(open(path));
    host::check(g_logger.has(nvinfer1::ILogger::Severity::kWARNING, {"another library", "is not registered"}),
                "a second library warns");
    host::check(g_registry.held == other && g_registry.deregistrations == before,
                "and leaves the first one alone");
    g_registry.held = nullptr;
    g_major = 1;
    dlclose(open(path));
    host::check(g_logger.has_error({"found version 1", "built for TensorRT"}) && g_registry.held == nullptr,
                "another major version is a logged error");
}

}  // namespace

extern "C" {
nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &g_registry; }
nvinfer1::ILogger* getLogger() noexcept { return &g_logger; }
std::int32_t getInferLibMajorVersion() noexcept { return g_major; }
}

int main(int count, char** arguments) {
    try {
        registers_itself(count > 1 ? arguments[1] : "");
        stays_unused(arguments[1]);
        std::printf("%d checks, %d failures\n", host::checks(), host::failures());
        return host::failures() == 0 ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "FAILED: %s\n", error.what());
        return 1;
    }
}
