// What differs between TensorRT's headers 8.5, 8.6, 10.x and 11.x, and is used in the sources of both plugin
// classes.
#pragma once

#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <cstdint>

namespace tokfilter {

// TensorRT 8.x has IPluginV2DynamicExt and weakly typed networks, 10.3 and later have IPluginV3.
inline constexpr bool kIsVersion2 = NV_TENSORRT_MAJOR < 10;

// Enumerators that the headers of 8.x lack, by their numbers in 10.x.
inline constexpr auto kFp8 = static_cast<nvinfer1::DataType>(6);
inline constexpr auto kBf16 = static_cast<nvinfer1::DataType>(7);
inline constexpr auto kFieldInt64 = static_cast<nvinfer1::PluginFieldType>(10);

#if NV_TENSORRT_MAJOR >= 10
static_assert(kFp8 == nvinfer1::DataType::kFP8 && kBf16 == nvinfer1::DataType::kBF16);
static_assert(kFieldInt64 == nvinfer1::PluginFieldType::kINT64);
#endif

#if NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6
// 8.5's registry loads no libraries, so its headers have no logger finder.
class LoggerFinder {
  public:
    virtual nvinfer1::ILogger* findLogger() = 0;

  protected:
    virtual ~LoggerFinder() = default;
};
#else
using LoggerFinder = nvinfer1::ILoggerFinder;
#endif

}  // namespace tokfilter
