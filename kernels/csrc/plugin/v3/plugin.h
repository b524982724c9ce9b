// TokenSelect as a plugin of TensorRT 10.3 to 11.x: IPluginV3 with its three capabilities.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <string>

#include "call.h"
#include "contract.h"

namespace tokfilter {

// Holds only its attributes: no CUDA call before enqueue(), no workspace, one kernel, therefore no tactics.
class TokenSelectPlugin final : public nvinfer1::IPluginV3,
                                public nvinfer1::IPluginV3OneCore,
                                public nvinfer1::IPluginV3OneBuild,
                                public nvinfer1::IPluginV3OneRuntime {
  public:
    TokenSelectPlugin(const Config& config, const std::string& layer);
    TokenSelectPlugin(const TokenSelectPlugin&) = delete;
    TokenSelectPlugin& operator=(const TokenSelectPlugin&) = delete;
    ~TokenSelectPlugin() override = default;

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(
        nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    // IPluginV3OneBuild
    std::int32_t getNbOutputs() const noexcept override { return kOutputs; }
    std::int32_t getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t output_count,
                                    const nvinfer1::DataType* input_types,
                                    std::int32_t input_count) const noexcept override;
    std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                 const nvinfer1::DimsExprs* shape_inputs, std::int32_t shape_input_count,
                                 nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   std::int32_t input_count, std::int32_t output_count) noexcept override;
    std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::DynamicPluginTensorDesc* outputs,
                                 std::int32_t output_count) noexcept override;
    std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::DynamicPluginTensorDesc* outputs,
                                 std::int32_t output_count) const noexcept override;
    // Attributes only: TensorRT itself adds shapes and formats.
    const char* getTimingCacheID() noexcept override { return description_.c_str(); }
    const char* getMetadataString() noexcept override { return description_.c_str(); }

    // IPluginV3OneRuntime
    std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::PluginTensorDesc* outputs,
                               std::int32_t output_count) noexcept override;
    std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                         const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                         void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &serialized_; }

  private:
    // Logs `error` for this layer; returns an error status.
    std::int32_t fail(const std::string& error) const noexcept;

    const Config config_;
    const std::string layer_;
    const std::string description_;
    const std::array<nvinfer1::PluginField, 3> fields_;  // point into config_
    const nvinfer1::PluginFieldCollection serialized_;   // points into fields_
};

}  // namespace tokfilter
