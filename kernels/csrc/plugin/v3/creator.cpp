#include "creator.h"

#include <string>

#include "log.h"
#include "plugin.h"

namespace tokfilter {

TokenSelectCreator::TokenSelectCreator() noexcept
    : fields_(fields_of(defaults_)), collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* TokenSelectCreator::createPlugin(const char* layer,
                                                      const nvinfer1::PluginFieldCollection* fields,
                                                      nvinfer1::TensorRTPhase /*phase*/) noexcept {
    return guarded<nvinfer1::IPluginV3*>(layer, "createPlugin", nullptr, [&]() -> nvinfer1::IPluginV3* {
        Config config;
        const std::string error = read_config(fields, config);
        if (!error.empty()) {
            log_message(Severity::kERROR, layer, error);
            return nullptr;
        }
        return new TokenSelectPlugin(config, layer == nullptr ? "" : layer);
    });
}

TokenSelectCreator& creator() noexcept {
    static TokenSelectCreator instance;
    return instance;
}

}  // namespace tokfilter
