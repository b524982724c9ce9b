// plugin_host_memory LIBRARY
//
// Fake TensorRT that runs out of memory: every allocation of the plugin fails once. Each time the plugin must
// return null or an error status, throw nothing, leak nothing (LeakSanitizer), and log the reason.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <new>
#include <string>

#include "plugin_host.h"

namespace {

constexpr int kNever = std::numeric_limits<int>::max();
int g_until_failure = kNever;
bool g_keep_failing = false;
bool g_failed = false;

bool fails_now() noexcept {
    if (g_until_failure == kNever || --g_until_failure > 0) {
        return false;
    }
    g_until_failure = g_keep_failing ? 1 : kNever;
    g_failed = true;
    return true;
}

// Runs `act` with its nth allocation failing, n = 1, 2, ..., until it needs no more than n; returns how often
// it failed.
template <typename Act>
int sweep(const std::string& name, bool keep_failing, Act&& act) {
    for (int n = 1;; ++n) {
        g_keep_failing = keep_failing;
        g_failed = false;
        g_until_failure = n;
        const bool succeeded = act();
        g_until_failure = kNever;
        if (!g_failed) {
            host::check(succeeded, name + " succeeds with enough memory");
            return n - 1;
        }
        host::check(!succeeded, name + " reports that allocation " + std::to_string(n) + " failed");
    }
}

// Hears without needing memory.
class QuietLogger final : public nvinfer1::ILogger {
  public:
    void log(Severity, const char* message) noexcept override { heard += *message != '\0' ? 1 : 0; }
    int heard{0};
};

class QuietFinder final : public nvinfer1::ILoggerFinder {
  public:
    nvinfer1::ILogger* findLogger() override { return &logger; }
    QuietLogger logger;
};

int sweep_all(const host::Library& library, bool keep_failing) {
    host::Fields fields = host::attributes(3, 1, "score");
    const auto* list = fields.get();
    const char* layer = "a layer whose name is too long to live inside of a string object";
    int failures = sweep("createPlugin", keep_failing,
                         [&] { return host::create(library.creator(), list, layer) != nullptr; });
    const host::PluginPointer plugin = host::create(library.creator(), list, layer);
    failures += sweep("clone", keep_failing, [&] { return host::clone(*plugin) != nullptr; });
    failures +=
        sweep("a plugin for a context", keep_failing, [&] { return host::attached(*plugin) != nullptr; });
#if NV_TENSORRT_MAJOR >= 10  // 8.x checks the tensors in enqueue(), where the layer allocates the threads
    const host::Descs right =
        host::describe({2, 1, 6, 8, 3, false}, nvinfer1::DataType::kHALF, nvinfer1::DataType::kHALF);
    host::Logger logger;
    const int none =
        sweep("onShapeChange", keep_failing, [&] { return !host::refuses(*plugin, right, logger); });
    host::check(none == 0, "a right shape change allocates nothing");
#endif
    return failures;
}

int run(const char* path) {
    QuietFinder finder;
    const host::Library library(path, finder);
    const int once = sweep_all(library, false);
    host::check(once > 0 && finder.logger.heard == once, "the logger hears of each of " +
                                                             std::to_string(once) + " failures, heard " +
                                                             std::to_string(finder.logger.heard));
    sweep_all(library, true);  // no memory for the log message either
    return host::report();
}

}  // namespace

void* operator new(std::size_t size) {
    void* memory = fails_now() ? nullptr : std::malloc(size == 0 ? 1 : size);
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int count, char** arguments) {
    try {
        return run(count > 1 ? arguments[1] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "FAILED: %s\n", error.what());
        return 1;
    }
}
