// Compatibility of headers, library, plan and GPU.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tokfilter/status.hpp"

namespace tokfilter {

/// "10.14.1" from TensorRT's number 101401, "8.6.1" from 8601: up to 9.x the major version counts thousands.
std::string version_text(std::int64_t number);

/// Error message if a library is incompatible with code compiled with these headers; else empty.
///
/// TensorRT's classes are called through vtables, which differ between major versions and grow in minor ones.
/// TensorRT-RTX 1.7 called with headers of TensorRT 10.14 crashes at the first call.
std::string misfit(std::int64_t headers, std::int64_t library, const std::string& runtime);

/// TensorRT and GPU of this machine.
struct Machine {
    std::string runtime;     ///< tensorrt or tensorrt-rtx
    std::string library;     ///< version of that library
    std::string gpu;         ///< name
    std::string capability;  ///< compute capability, e.g. "8.7"
};

/// What export/engine.py states of a plan: version, version_compatible, gpu, hardware, compute_capabilities,
/// plugin. Values other than strings are JSON.
using Target = std::map<std::string, std::string>;

/// Code::version if a plan was built for another machine. Missing fields are left to TensorRT's own check.
Status check_target(const Target& target, const Machine& machine);

/// Remedy for a plan that TensorRT refuses, from its log message.
std::string remedy(const std::string& log);

}  // namespace tokfilter
