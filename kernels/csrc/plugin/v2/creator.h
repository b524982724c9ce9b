// Creates TokenSelect plugins in TensorRT 8.x: from attributes when a network is built, from bytes when an
// engine is read.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>

#include "contract.h"

namespace tokfilter {

class TokenSelectCreator final : public nvinfer1::IPluginCreator {
  public:
    TokenSelectCreator() noexcept;
    TokenSelectCreator(const TokenSelectCreator&) = delete;
    TokenSelectCreator& operator=(const TokenSelectCreator&) = delete;
    ~TokenSelectCreator() override = default;

    // Null, with a logged error, for an invalid attribute.
    nvinfer1::IPluginV2* createPlugin(const char* layer,
                                      const nvinfer1::PluginFieldCollection* fields) noexcept override;
    // Null, with a logged error, for bytes that no plugin of this version has written.
    nvinfer1::IPluginV2* deserializePlugin(const char* layer, const void* data,
                                           std::size_t bytes) noexcept override;
    // The attributes with their defaults.
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    // The namespace is part of the contract: the node in the graph names it.
    void setPluginNamespace(const char* /*name_space*/) noexcept override {}

  private:
    const Config defaults_{};
    const std::array<nvinfer1::PluginField, 3> fields_;
    const nvinfer1::PluginFieldCollection collection_;
};

// The one creator of this library.
TokenSelectCreator& creator() noexcept;

}  // namespace tokfilter
