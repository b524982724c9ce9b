// Sentences from parts.
#pragma once

#include <cstdint>
#include <locale>
#include <sstream>
#include <string>

namespace tokfilter {

/// The parts written one after another, whatever locale the host program has set.
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
