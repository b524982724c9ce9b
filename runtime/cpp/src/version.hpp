// Which TensorRT belongs to which plan and to which headers.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tokfilter/status.hpp"

namespace tokfilter {

/// "10.14.1" from TensorRT's number 101401.
std::string version_text(std::int64_t number);

/// Why a library cannot serve code compiled with these headers; empty where it can.
///
/// TensorRT's classes are called through tables of functions: another major version, or an older minor one,
/// has other functions in the same places. TensorRT-RTX 1.7 called with headers of TensorRT 10.14 crashes at
/// the first call.
std::string misfit(std::int64_t headers, std::int64_t library, const std::string& runtime);

/// What is on this machine.
struct Machine {
    std::string runtime;     ///< tensorrt or tensorrt-rtx
    std::string library;     ///< version of that library
    std::string gpu;         ///< name
    std::string capability;  ///< compute capability, e.g. "8.7"
};

/// What export/engine.py states of a plan: version, version_compatible, gpu, hardware, compute_capabilities,
/// plugin. Values that are no texts stand as JSON.
using Target = std::map<std::string, std::string>;

/// Code::version when a plan's target is not this machine. What it does not state is left to TensorRT's own
/// check.
Status check_target(const Target& target, const Machine& machine);

/// What to do about a plan that TensorRT refuses, from what its log says.
std::string remedy(const std::string& said);

}  // namespace tokfilter
