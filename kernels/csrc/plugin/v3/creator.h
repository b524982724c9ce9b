// Creates TokenSelect plugins from attributes, when a network is built and when an engine is deserialised.
#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "contract.h"

namespace tokfilter {

class TokenSelectCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    TokenSelectCreator() noexcept;
    TokenSelectCreator(const TokenSelectCreator&) = delete;
    TokenSelectCreator& operator=(const TokenSelectCreator&) = delete;
    ~TokenSelectCreator() override = default;

    // Null, with a logged error, for an invalid attribute.
    nvinfer1::IPluginV3* createPlugin(const char* layer, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    // The attributes with their defaults.
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    const Config defaults_{};
    const std::array<nvinfer1::PluginField, 3> fields_;
    const nvinfer1::PluginFieldCollection collection_;
};

// The one creator of this library.
TokenSelectCreator& creator() noexcept;

}  // namespace tokfilter
