// TokenSelect as a plugin of TensorRT 8.5 and 8.6: IPluginV2DynamicExt.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "call.h"
#include "contract.h"
#include "serial.h"

namespace tokfilter {

// Holds only its attributes: no CUDA call before enqueue(), no workspace.
class TokenSelectPlugin final : public nvinfer1::IPluginV2DynamicExt {
  public:
    TokenSelectPlugin(const Config& config, const std::string& layer);
    TokenSelectPlugin(const TokenSelectPlugin&) = delete;
    TokenSelectPlugin& operator=(const TokenSelectPlugin&) = delete;
    ~TokenSelectPlugin() override = default;

    // IPluginV2
    const char* getPluginType() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    void setPluginNamespace(const char* /*name_space*/) noexcept override {}  // part of the contract
    // The ONNX parser takes a node with fewer outputs.
    std::int32_t getNbOutputs() const noexcept override { return kOutputs; }
    std::int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    std::size_t getSerializationSize() const noexcept override { return kSerialBytes; }
    void serialize(void* buffer) const noexcept override { write_config(config_, buffer); }
    void destroy() noexcept override { delete this; }

    // IPluginV2Ext
    nvinfer1::DataType getOutputDataType(std::int32_t index, const nvinfer1::DataType* input_types,
                                         std::int32_t input_count) const noexcept override;

    // IPluginV2DynamicExt
    nvinfer1::IPluginV2DynamicExt* clone() const noexcept override;
    // Of -1 dimensions after a logged error.
    nvinfer1::DimsExprs getOutputDimensions(std::int32_t index, const nvinfer1::DimsExprs* inputs,
                                            std::int32_t input_count,
                                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t position, const nvinfer1::PluginTensorDesc* tensors,
                                   std::int32_t input_count, std::int32_t output_count) noexcept override;
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                         const nvinfer1::DynamicPluginTensorDesc* outputs,
                         std::int32_t output_count) noexcept override;
    std::size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::PluginTensorDesc* outputs,
                                 std::int32_t output_count) const noexcept override;
    std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                         const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                         void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

  private:
    const Config config_;
    const std::string layer_;
};

}  // namespace tokfilter
