// libtokfilter_plugin_static.so registers its creator when it is opened with dlopen. It exports no symbol.
#include <NvInferRuntime.h>

#include "creator.h"
#include "log.h"
#include "text.h"
#include "versions.h"

namespace tokfilter {
namespace {

// The registry's virtual functions moved between 8.5 and 8.6 and between 10.x and 11.0: a call across would
// crash.
bool same_registry() {
#if NV_TENSORRT_MAJOR < 10
    return getInferLibVersion() / 100 == NV_TENSORRT_MAJOR * 10 + NV_TENSORRT_MINOR;  // 8601 is 8.6.1
#else
    return getInferLibMajorVersion() == NV_TENSORRT_MAJOR;
#endif
}

class NvinferLoggerFinder final : public LoggerFinder {
  public:
    nvinfer1::ILogger* findLogger() override { return getLogger(); }
};

// Used in place of REGISTER_TENSORRT_PLUGIN, which registers under the empty namespace (where a creator that
// names another one cannot be found) and never deregisters (a dangling creator after dlclose).
class Registration {
  public:
    Registration() noexcept {
        keep_logger_finder(&finder_);
        registered_ = guarded("", "registration", false, [] { return register_creator(); });
    }
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
    ~Registration() {
        if (registered_) {
            getPluginRegistry()->deregisterCreator(creator());
        }
    }

  private:
    static bool register_creator() {
        if (!same_registry()) {
            log_message(Severity::kERROR, "",
                        text("this library is built for TensorRT ", NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR,
                             " and found version ", getInferLibVersion(),
                             ": it is not registered. Build it against that version."));
            return false;
        }
        if (!getPluginRegistry()->registerCreator(creator(), kNamespace)) {
            log_message(Severity::kWARNING, "",
                        "another library has registered this plugin: this one is not registered.");
            return false;
        }
        return true;
    }

    NvinferLoggerFinder finder_;
    bool registered_{false};
};

const Registration g_registration;

}  // namespace
}  // namespace tokfilter
