// Engine options of the command line.
#pragma once

#include "arguments.hpp"
#include "tokfilter/engine.hpp"

namespace example {

constexpr auto kEngineUsage = "[--tokens N] [--role filtered|full] [--precision fp32|fp16|bf16] [--device N]";

/// The names that engine_options reads, and the program's own.
inline std::vector<std::string> with_engine_options(std::vector<std::string> own) {
    own.insert(own.end(), {"tokens", "role", "precision", "device"});
    return own;
}

/// Sets the arguments' `error` for invalid values.
inline tokfilter::Options engine_options(Arguments& arguments) {
    tokfilter::Options options;
    options.tokens = arguments.number("tokens", 0, 1, 1 << 20);
    const bool full = arguments.choice("role", {"filtered", "full"}) == "full";
    options.role = full ? tokfilter::Role::full : tokfilter::Role::filtered;
    options.precision = arguments.choice("precision", {"fp32", "fp16", "bf16"});
    options.device = static_cast<int>(arguments.number("device", 0, 0, 1023));
    return options;
}

}  // namespace example
