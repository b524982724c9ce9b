// The answer to a TensorRT whose plugin interface is another one than the library's.
#pragma once

#include <cstdint>

namespace tokfilter {

// An empty list of creators, and a line on stderr with both versions and the remedy. TensorRT's logger is not
// used: its virtual functions moved between versions. host: e.g. "8.6"
void* const* no_creators(const char* host, std::int32_t& count) noexcept;

}  // namespace tokfilter
