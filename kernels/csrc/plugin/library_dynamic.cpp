// Entry points of libtokfilter_plugin.so, for host programs that load plugins through TensorRT's registry. It
// does not register itself: the registry refuses a library that does both, and keeps a dangling creator.
#include <NvInferRuntime.h>

#include <cstdint>

#include "log.h"
#include "token_select_creator.h"

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count);
__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&tokfilter::creator()};
    count = 1;
    return creators;
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { tokfilter::keep_logger_finder(finder); }

}  // extern "C"
