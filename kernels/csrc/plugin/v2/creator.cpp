#include "creator.h"

#include <string>

#include "log.h"
#include "plugin.h"
#include "serial.h"

namespace tokfilter {

using nvinfer1::IPluginV2;

namespace {

// The plugin, or null after logging `error`.
IPluginV2* plugin_or_error(const char* layer, const Config& config, const std::string& error) {
    if (!error.empty()) {
        log_message(Severity::kERROR, layer, error);
        return nullptr;
    }
    return new TokenSelectPlugin(config, layer == nullptr ? "" : layer);
}

}  // namespace

TokenSelectCreator::TokenSelectCreator() noexcept
    : fields_(fields_of(defaults_)), collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {}

IPluginV2* TokenSelectCreator::createPlugin(const char* layer,
                                            const nvinfer1::PluginFieldCollection* fields) noexcept {
    return guarded<IPluginV2*>(layer, "createPlugin", nullptr, [&] {
        Config config;
        const std::string error = read_config(fields, config);
        return plugin_or_error(layer, config, error);
    });
}

IPluginV2* TokenSelectCreator::deserializePlugin(const char* layer, const void* data,
                                                 std::size_t bytes) noexcept {
    return guarded<IPluginV2*>(layer, "deserializePlugin", nullptr, [&] {
        Config config;
        const std::string error = read_serial(data, bytes, config);
        return plugin_or_error(layer, config, error);
    });
}

TokenSelectCreator& creator() noexcept {
    static TokenSelectCreator instance;
    return instance;
}

}  // namespace tokfilter
