// The bytes of a plugin in an engine of TensorRT 8.x.
#pragma once

#include <cstddef>
#include <string>

#include "contract.h"

namespace tokfilter {

// Four int32, in the byte order of the machine (an engine runs on one kind of GPU): format 1, k,
// prefix_tokens, order.
inline constexpr std::size_t kSerialBytes = 16;

void write_config(const Config& config, void* buffer) noexcept;

// Reads `bytes` bytes that may come from a damaged engine. Empty, or the error.
std::string read_serial(const void* data, std::size_t bytes, Config& config);

}  // namespace tokfilter
