// Pillow's resize of 8-bit RGB images, to the bit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tokfilter {

enum class Filter { nearest, box, bilinear, hamming, bicubic, lanczos };

/// None for a name that Pillow does not have.
std::optional<Filter> filter_from_name(const std::string& name);

/// pixels: [height, width, 3]. Returns [new_height, new_width, 3]. All sizes at least 1.
std::vector<std::uint8_t> resize(const std::uint8_t* pixels, std::int64_t height, std::int64_t width,
                                 std::int64_t new_height, std::int64_t new_width, Filter filter);

}  // namespace tokfilter
