// The fake plugin registry: of a runtime from TensorRT 8.6 on, of the process in 8.5.
#pragma once

#include <string>
#include <vector>

#include "fake_stubs.hpp"
#include "signatures.hpp"

namespace nvinfer1::fake {

class Registry : public StubRegistry {
  public:
#if FAKE_REGISTRY_LOADS
    explicit Registry(ILogger& logger) : logger_(logger) {}
    ~Registry() noexcept override;

    PluginLibraryHandle loadLibrary(const char* path) noexcept override;

    bool knows_token_select() const { return !libraries_.empty(); }

  private:
    ILogger& logger_;
    std::vector<void*> libraries_;
#else
    bool registerCreator(IPluginCreator& creator, const char* space) noexcept override;
    IPluginCreator* getPluginCreator(const char* name, const char* version,
                                     const char* space) noexcept override;

    bool knows_token_select() { return getPluginCreator("TokenSelect", "1", "tokfilter") != nullptr; }
    void forget() noexcept { creators_.clear(); }

  private:
    std::vector<IPluginCreator*> creators_;
#endif
};

#if !FAKE_REGISTRY_LOADS
Registry& process_registry();
#endif

}  // namespace nvinfer1::fake
