// Text of messages.
#pragma once

#include <cstdint>
#include <locale>
#include <sstream>
#include <string>

namespace tokfilter {

/// Concatenate the parts, independent of the host program's locale.
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    (out << ... << parts);
    return out.str();
}

/// "[2, 3, 224, 224]"
template <class Sizes>
std::string shape_text(const Sizes& sizes) {
    std::string out;
    for (const std::int64_t size : sizes) out += (out.empty() ? "" : ", ") + std::to_string(size);
    return "[" + out + "]";
}

}  // namespace tokfilter
