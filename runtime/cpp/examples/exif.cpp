// Sources: CIPA DC-008 (Exif 2.32) for the orientation tag, TIFF 6.0 for its directory, ITU-T T.81 for JPEG's
// markers.
#include "exif.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace example {
namespace {

constexpr std::uint16_t kOrientation = 0x0112;

// Bytes with a byte order; reads past the end return 0.
class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::size_t size() const { return size_; }
    void set_little(bool little) { little_ = little; }
    Bytes from(std::size_t at, std::size_t count) const {
        return at >= size_ ? Bytes(data_, 0) : Bytes(data_ + at, std::min(count, size_ - at));
    }
    bool starts_with(const char* text, std::size_t count) const {
        return size_ >= count && std::memcmp(data_, text, count) == 0;
    }
    std::uint32_t number(std::size_t at, std::size_t count) const {
        std::uint32_t value = 0;
        if (at > size_ || count > size_ - at) return 0;
        for (std::size_t i = 0; i < count; ++i)
            value = value << 8U | data_[at + (little_ ? count - 1 - i : i)];
        return value;
    }

  private:
    const std::uint8_t* data_;
    std::size_t size_;
    bool little_ = false;
};

int orientation_of_tiff(Bytes tiff) {
    tiff.set_little(tiff.starts_with("II", 2));
    const std::size_t directory = tiff.number(4, 4);
    const std::size_t entries = tiff.number(directory, 2);
    for (std::size_t i = 0; i < entries; ++i) {
        const std::size_t entry = directory + 2 + i * 12;
        if (entry >= tiff.size()) break;
        if (tiff.number(entry, 2) != kOrientation) continue;
        const auto value = static_cast<int>(tiff.number(entry + 8, 2));
        return value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
}

}  // namespace

int exif_orientation(const std::uint8_t* data, std::size_t size) {
    const Bytes file(data, size);
    if (file.number(0, 2) != 0xFFD8) return 1;  // no JPEG
    for (std::size_t at = 2; at + 4 <= size;) {
        const std::uint32_t marker = file.number(at, 2), length = file.number(at + 2, 2);
        if ((marker & 0xFF00U) != 0xFF00U || marker == 0xFFDA || length < 2)
            break;  // pixels follow, or damage
        const Bytes segment = file.from(at + 4, length - 2);
        if (marker == 0xFFE1 && segment.starts_with("Exif\0", 6))
            return orientation_of_tiff(segment.from(6, length));
        at += 2 + length;
    }
    return 1;
}

Pixels upright(Pixels image, int orientation) {
    if (orientation == 1) return image;
    const bool swapped = orientation >= 5;  // rows become columns
    const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    Pixels turned;
    turned.height = swapped ? image.width : image.height;
    turned.width = swapped ? image.height : image.width;
    turned.values.reserve(image.values.size());
    for (std::int64_t y = 0; y < turned.height; ++y)
        for (std::int64_t x = 0; x < turned.width; ++x) {
            std::int64_t row = swapped ? x : y, column = swapped ? y : x;
            if (from_bottom) row = image.height - 1 - row;
            if (from_right) column = image.width - 1 - column;
            const auto pixel = image.values.begin() + (row * image.width + column) * 3;
            turned.values.insert(turned.values.end(), pixel, pixel + 3);
        }
    return turned;
}

}  // namespace example
