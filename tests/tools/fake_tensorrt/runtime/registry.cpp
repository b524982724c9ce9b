#include "registry.hpp"

#include <dlfcn.h>

#include <cstring>

#include "plugins.hpp"

namespace nvinfer1::fake {

#if FAKE_REGISTRY_LOADS

constexpr auto kCreators = FAKE_TEXT(FAKE_CREATORS);

Registry::~Registry() noexcept {
    for (void* library : libraries_) dlclose(library);
}

Registry::PluginLibraryHandle Registry::loadLibrary(const char* path) noexcept {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr && dlsym(library, kCreators) != nullptr)
        return *libraries_.insert(libraries_.end(), library);
    const std::string call = "IPluginRegistry::loadLibrary: Error Code ";
    const std::string reason =
        library == nullptr ? call + "6: API Usage Error (Unable to load library: " + path + ": " + dlerror() +
                                 " In Impl at /_src/runtime/dispatch/libLoader.cpp:305)"
                           : call + "3: API Usage Error (SymbolAddress for " + kCreators +
                                 " could not be loaded, check function name against library symbol In "
                                 "untypedSymbolAddress at /_src/runtime/dispatch/libLoader.cpp:378)";
    logger_.log(ILogger::Severity::kERROR, reason.c_str());
    if (library != nullptr) dlclose(library);
    return nullptr;
}

#else

bool Registry::registerCreator(IPluginCreator& creator, const char* space) noexcept {
    if (getPluginCreator(creator.getPluginName(), creator.getPluginVersion(), space) != nullptr) return false;
    creator.setPluginNamespace(space);
    creators_.push_back(&creator);
    return true;
}

IPluginCreator* Registry::getPluginCreator(const char* name, const char* version,
                                           const char* space) noexcept {
    for (IPluginCreator* creator : creators_)
        if (std::strcmp(creator->getPluginName(), name) == 0 &&
            std::strcmp(creator->getPluginVersion(), version) == 0 &&
            std::strcmp(creator->getPluginNamespace(), space) == 0)
            return creator;
    return nullptr;
}

Registry& process_registry() {
    static Registry registry;
    return registry;
}

#endif

}  // namespace nvinfer1::fake

namespace fake {

bool registry_loads_libraries() { return FAKE_REGISTRY_LOADS; }

void forget_plugins() {
#if !FAKE_REGISTRY_LOADS
    nvinfer1::fake::process_registry().forget();
#endif
}

}  // namespace fake
