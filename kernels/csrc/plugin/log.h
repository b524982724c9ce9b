// Every error of the plugin is a sentence that TensorRT's logger hears.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>
#include <utility>

namespace tokfilter {

using Severity = nvinfer1::ILogger::Severity;

// Keeps the first finder that is not null, as NVIDIA's own plugin libraries do.
void keep_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Says `message` through the finder's logger, on stderr where there is none. `subject` is the layer's name or
// empty.
void say(Severity severity, const char* subject, const std::string& message) noexcept;

// Runs `body`; what it throws becomes a logged sentence and the value `failure`: nothing crosses TensorRT's
// interface.
template <typename Result, typename Body>
Result guarded(const char* subject, const char* task, Result failure, Body&& body) noexcept {
    try {
        try {
            return std::forward<Body>(body)();
        } catch (const std::exception& error) {
            say(Severity::kERROR, subject, std::string(task) + " failed: " + error.what() + ".");
        } catch (...) {
            say(Severity::kERROR, subject, std::string(task) + " failed for an unknown reason.");
        }
    } catch (...) {
        say(Severity::kERROR, subject, "out of memory");  // short enough to need no memory
    }
    return failure;
}

}  // namespace tokfilter
