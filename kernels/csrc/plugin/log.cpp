#include "log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "contract.h"

namespace tokfilter {
namespace {

std::atomic<LoggerFinder*> g_finder{nullptr};

nvinfer1::ILogger* current_logger() noexcept {
    LoggerFinder* finder = g_finder.load(std::memory_order_acquire);
    try {
        return finder == nullptr ? nullptr : finder->findLogger();
    } catch (...) {
        return nullptr;  // falls back to stderr
    }
}

// The major version in the name of the library that has the object's virtual functions (libnvinfer.so.10); 0
// if the name has none.
int major_of(const void* object) noexcept {
    Dl_info library{};
    if (dladdr(*static_cast<const void* const*>(object), &library) == 0 || library.dli_fname == nullptr) {
        return 0;
    }
    const char* slash = std::strrchr(library.dli_fname, '/');
    const char* suffix = std::strstr(slash == nullptr ? library.dli_fname : slash, ".so.");
    return suffix == nullptr ? 0 : std::atoi(suffix + std::strlen(".so."));
}

}  // namespace

void keep_logger_finder(LoggerFinder* finder) noexcept {
    // The virtual functions of finder and logger moved between 10.x and 11.0: a call across would crash.
    const int major = finder == nullptr ? 0 : major_of(finder);
    if (major != 0 && major != NV_TENSORRT_MAJOR) {
        return;
    }
    LoggerFinder* expected = nullptr;
    g_finder.compare_exchange_strong(expected, finder, std::memory_order_acq_rel);
}

void log_message(Severity severity, const char* subject, const std::string& message) noexcept {
    try {
        std::string line = std::string(kNamespace) + "::" + kName;
        if (subject != nullptr && *subject != '\0') {
            line += std::string(" \"") + subject + "\"";
        }
        line += ": " + message;
        if (nvinfer1::ILogger* logger = current_logger()) {
            logger->log(severity, line.c_str());
        } else if (severity <= Severity::kWARNING) {
            std::fprintf(stderr, "%s\n", line.c_str());
        }
    } catch (...) {
        std::fputs("tokfilter::TokenSelect: out of memory while an error was logged.\n", stderr);
    }
}

}  // namespace tokfilter
