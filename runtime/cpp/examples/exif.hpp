// EXIF orientation of JPEG files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace example {

/// The orientation that a JPEG file's EXIF data state, 1 to 8; 1 (upright) where they state none or are
/// damaged.
int exif_orientation(const std::uint8_t* data, std::size_t size);

/// 8-bit RGB pixels, [height, width, 3].
struct Pixels {
    std::vector<std::uint8_t> values;
    std::int64_t height = 0;
    std::int64_t width = 0;
};

/// Turn and mirror so that an image of this orientation stands upright.
Pixels upright(Pixels image, int orientation);

}  // namespace example
