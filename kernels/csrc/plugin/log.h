// Errors go to TensorRT's logger.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>
#include <utility>

#include "versions.h"

namespace tokfilter {

using Severity = nvinfer1::ILogger::Severity;

// Keeps the first finder that is not null, as NVIDIA's own plugin libraries do, unless it is of another major
// version of TensorRT.
void keep_logger_finder(LoggerFinder* finder) noexcept;

// Logs `message` through the finder's logger, or on stderr where there is none. `subject` is the layer's name
// or empty.
void log_message(Severity severity, const char* subject, const std::string& message) noexcept;

// Runs `body`; an exception is logged and becomes the return value `failure`, so that none leaves the plugin.
template <typename Result, typename Body>
Result guarded(const char* subject, const char* task, Result failure, Body&& body) noexcept {
    try {
        try {
            return std::forward<Body>(body)();
        } catch (const std::exception& error) {
            log_message(Severity::kERROR, subject, std::string(task) + " failed: " + error.what() + ".");
        } catch (...) {
            log_message(Severity::kERROR, subject, std::string(task) + " failed for an unknown reason.");
        }
    } catch (...) {
        log_message(Severity::kERROR, subject, "out of memory");  // short enough to need no memory
    }
    return failure;
}

}  // namespace tokfilter
