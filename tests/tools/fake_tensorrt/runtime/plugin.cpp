// A library that the fake registry accepts as a plugin library: it exports what this TensorRT version looks
// for. With SELF_REGISTERING it exports nothing and registers its creator when it is opened (TensorRT 8.5).
#include <NvInferRuntime.h>

#include "signatures.hpp"

#if FAKE_REGISTRY_LOADS

#ifndef SELF_REGISTERING
extern "C" void* FAKE_CREATORS(std::int32_t& count) {
    static void* none[1]{};
    count = 1;
    return none;
}
#endif

#else

namespace {

class Creator : public nvinfer1::IPluginCreator {
  public:
    const char* getPluginName() const noexcept override { return "TokenSelect"; }
    const char* getPluginVersion() const noexcept override { return "1"; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return nullptr; }
    nvinfer1::IPluginV2* createPlugin(const char*, const nvinfer1::PluginFieldCollection*) noexcept override {
        return nullptr;
    }
    nvinfer1::IPluginV2* deserializePlugin(const char*, const void*, std::size_t) noexcept override {
        return nullptr;
    }
    void setPluginNamespace(const char*) noexcept override {}
    const char* getPluginNamespace() const noexcept override { return "tokfilter"; }
};

Creator creator;

#ifdef SELF_REGISTERING
const bool registered = getPluginRegistry()->registerCreator(creator, "tokfilter");
#endif

}  // namespace

#ifndef SELF_REGISTERING
extern "C" nvinfer1::IPluginCreator* const* getPluginCreators(std::int32_t& count) {
    static nvinfer1::IPluginCreator* const creators[] = {&creator};
    count = 1;
    return creators;
}
#endif

#endif
