// Decoding of image files to 8-bit RGB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "exif.hpp"
#include "tokfilter/status.hpp"

namespace example {

/// Decode a JPEG or PNG file: EXIF orientation applied, transparency blended on white, 16 bits scaled to 8.
/// Code::argument for other files, damaged ones, and images of more than max_pixels.
tokfilter::Result<Pixels> decode(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels);

/// The same from a file.
tokfilter::Result<Pixels> read_image(const std::string& path, std::int64_t max_pixels);

}  // namespace example
