// Entry points of libtokfilter_plugin.so for TensorRT 8.6, whose registry loads plugin libraries. It does not
// register itself: the registry refuses a library that does both.
#include <NvInferRuntime.h>

#include <cstdint>

#include "creator.h"
#include "log.h"
#include "wrong_version.h"

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreator* const* getPluginCreators(
    std::int32_t& count);
__attribute__((visibility("default"))) void* const* getCreators(std::int32_t& count);
__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

nvinfer1::IPluginCreator* const* getPluginCreators(std::int32_t& count) {
    static nvinfer1::IPluginCreator* const creators[] = {&tokfilter::creator()};
    count = 1;
    return creators;
}

// What TensorRT 10 and later call.
void* const* getCreators(std::int32_t& count) { return tokfilter::no_creators("10 or later", count); }

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { tokfilter::keep_logger_finder(finder); }

}  // extern "C"
