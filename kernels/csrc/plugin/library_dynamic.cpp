// Entry points of libtokfilter_plugin.so, for hosts that load plugins through TensorRT's registry. Nothing
// registers itself here: a library that does both is refused by the registry and leaves a dangling creator
// behind.
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
