// libtokfilter_plugin_static.so registers its creator when a host opens it with dlopen. It exports nothing.
#include <NvInferRuntime.h>

#include "log.h"
#include "text.h"
#include "token_select_creator.h"

namespace tokfilter {
namespace {

class NvinferLoggerFinder final : public nvinfer1::ILoggerFinder {
  public:
    nvinfer1::ILogger* findLogger() override { return getLogger(); }
};

// REGISTER_TENSORRT_PLUGIN registers under the empty namespace, where a creator that names another one is
// unreachable, and it never deregisters, which leaves a dangling creator behind dlclose.
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
        // The registry's virtual functions moved between 10.x and 11.0: a call across majors ends in a crash.
        if (getInferLibMajorVersion() != NV_TENSORRT_MAJOR) {
            say(Severity::kERROR, "",
                text("this library is built for TensorRT ", NV_TENSORRT_MAJOR, " and found version ",
                     getInferLibMajorVersion(), ": it stays unused. Build it against that version."));
            return false;
        }
        if (!getPluginRegistry()->registerCreator(creator(), kNamespace)) {
            say(Severity::kWARNING, "", "another library has registered this plugin: this one stays unused.");
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
