// The plugin's identity, attributes and defaults, equal to the contract in kernels/op.py (tests compare
// them).
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <string>

#include "token_select.h"

namespace tokfilter {

inline constexpr const char* kNamespace = "tokfilter";
inline constexpr const char* kName = "TokenSelect";
inline constexpr const char* kVersion = "1";

// Names in the order of the enumerators of Order.
inline constexpr std::array<const char*, 2> kOrderNames{"position", "score"};

// The attributes of a plugin: all that is serialised into an engine or a timing cache.
struct Config {
    std::int32_t k{0};  // 0: the budget is the length of the input `slots`
    std::int32_t prefix_tokens{1};
    Order order{Order::kPosition};

    const char* order_name() const noexcept { return kOrderNames[static_cast<std::size_t>(order)]; }
};

// Reads a plugin's attributes; absent ones keep their defaults. Returns an empty string, or an error with the
// field, the expected value and the value given.
std::string read_config(const nvinfer1::PluginFieldCollection* fields, Config& config);

// "k=98;prefix_tokens=1;order=position"
std::string describe(const Config& config);

// The same attributes as fields that point into `config`, which must outlive them.
std::array<nvinfer1::PluginField, 3> fields_of(const Config& config) noexcept;

}  // namespace tokfilter
