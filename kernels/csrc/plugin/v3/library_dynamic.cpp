// Entry points of libtokfilter_plugin.so for TensorRT 10.3 to 11.x: host programs load it through TensorRT's
// registry. It does not register itself: the registry refuses a library that does both, and keeps a dangling
// creator.
#include <NvInferRuntime.h>

#include <cstdint>

#include "creator.h"
#include "log.h"
#include "wrong_version.h"

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count);
__attribute__((visibility("default"))) void* const* getPluginCreators(std::int32_t& count);
__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&tokfilter::creator()};
    count = 1;
    return creators;
}

// What TensorRT 8.6 calls.
void* const* getPluginCreators(std::int32_t& count) { return tokfilter::no_creators("8.6", count); }

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { tokfilter::keep_logger_finder(finder); }

}  // extern "C"
