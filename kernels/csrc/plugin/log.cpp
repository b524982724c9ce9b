#include "log.h"

#include <atomic>
#include <cstdio>

#include "contract.h"

namespace tokfilter {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

nvinfer1::ILogger* current_logger() noexcept {
    nvinfer1::ILoggerFinder* finder = g_finder.load(std::memory_order_acquire);
    try {
        return finder == nullptr ? nullptr : finder->findLogger();
    } catch (...) {
        return nullptr;  // falls back to stderr
    }
}

}  // namespace

void keep_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
    nvinfer1::ILoggerFinder* expected = nullptr;
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
