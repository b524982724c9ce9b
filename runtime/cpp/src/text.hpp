// Text of messages.
#pragma once

#include <cstddef>
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

/// Text from a file as it may be printed: control characters and marks of direction become "?", and it is cut
/// after `most` bytes.
inline std::string printable(const std::string& content, std::size_t most = 200) {
    std::string out;
    for (std::size_t i = 0; i < content.size() && out.size() < most; ++i) {
        const auto byte = [&](std::size_t j) {
            return j < content.size() ? static_cast<unsigned char>(content[j]) : 0u;
        };
        const unsigned first = byte(i), second = byte(i + 1), third = byte(i + 2);
        if (first < 0x20 || first == 0x7f) {
            out += '?';
        } else if ((first == 0xc2 && second < 0xa0) || (first == 0xd8 && second == 0x9c)) {
            out += '?';  // U+0080 to U+009F, U+061C
            ++i;
        } else if (first == 0xe2 && ((second == 0x80 &&
                                      (third == 0x8e || third == 0x8f || (third >= 0xa8 && third <= 0xae))) ||
                                     (second == 0x81 && third >= 0xa6 && third <= 0xa9))) {
            out += '?';  // U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069
            i += 2;
        } else {
            out += content[i];
        }
    }
    return out;
}

/// "[2, 3, 224, 224]"
template <class Sizes>
std::string shape_text(const Sizes& sizes) {
    std::string out;
    for (const std::int64_t size : sizes) out += (out.empty() ? "" : ", ") + std::to_string(size);
    return "[" + out + "]";
}

}  // namespace tokfilter
