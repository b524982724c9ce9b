#include "image.hpp"

#include <climits>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_FAILURE_STRINGS  // one of them is a static buffer, which is not thread-safe
#include <stb_image.h>

namespace example {
namespace {

using tokfilter::Code;
using tokfilter::Result;
using tokfilter::Status;

constexpr std::uintmax_t kMaxBytes = 600U << 20U;  // as in Python (artifacts/limits.py)

struct Free {
    void operator()(void* memory) const { stbi_image_free(memory); }
};

// A channel over white, rounded.
std::uint8_t over_white(std::uint32_t value, std::uint32_t alpha) {
    return static_cast<std::uint8_t>((value * alpha + 255 * (255 - alpha) + 127) / 255);
}

std::uint32_t eight_bits(std::uint8_t value) { return value; }
std::uint32_t eight_bits(std::uint16_t value) { return (value + 128U) / 257U; }

// rgba: [height, width, 4]
template <class Value>
Pixels rgb_from_rgba(const Value* rgba, int width, int height) {
    Pixels image{{}, height, width};
    const auto count = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
    image.values.resize(count * 3);
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t c = 0; c < 3; ++c)
            image.values[i * 3 + c] = over_white(eight_bits(rgba[i * 4 + c]), eight_bits(rgba[i * 4 + 3]));
    return image;
}

constexpr std::uint8_t kStartOfScan = 0xDA, kHuffmanTables = 0xC4;

// Whether each Huffman table of the segment at `at` (its length, 2 bytes) has at most 256 codes. stb_image
// before 2.29 writes those of a larger one beyond its array.
bool tables_fit(const std::uint8_t* data, std::size_t size, std::size_t at) {
    if (size - at < 2) return true;
    std::size_t left = (data[at] << 8U) + data[at + 1];
    std::size_t position = at + 2;
    for (left -= left < 2 ? left : 2; left >= 17 && size - position >= 17;) {
        unsigned codes = 0;
        for (std::size_t i = 1; i <= 16; ++i) codes += data[position + i];
        if (codes > 256) return false;
        position += 17;
        left -= 17;
        if (codes > left || codes > size - position) break;
        position += codes;
        left -= codes;
    }
    return true;
}

// Whether all Huffman tables of a JPEG file fit. Segments before the first scan are walked as stb_image walks
// them; behind it stb_image searches for markers in its own way, so each pair of bytes that could be one is
// looked at.
bool huffman_tables_fit(const std::uint8_t* data, std::size_t size) {
    std::size_t at = 2;
    while (at + 1 < size) {
        if (data[at] != 0xFF || data[at + 1] == 0xFF) {
            ++at;
            continue;
        }
        const std::uint8_t marker = data[at + 1];
        at += 2;
        if (marker == kHuffmanTables && !tables_fit(data, size, at)) return false;
        if (marker == kStartOfScan) break;
        if (size - at < 2) return true;
        at += static_cast<std::size_t>((data[at] << 8U) + data[at + 1]);
    }
    for (; at + 1 < size; ++at)
        if (data[at] == 0xFF && data[at + 1] == kHuffmanTables && !tables_fit(data, size, at + 2))
            return false;
    return true;
}

Status damaged() {
    return {Code::argument, "the image could not be decoded; it may be damaged or truncated."};
}

}  // namespace

Result<Pixels> decode(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels) {
    int width = 0, height = 0, channels = 0;
    const auto length = static_cast<int>(size);
    if (size > INT_MAX || stbi_info_from_memory(data, length, &width, &height, &channels) == 0)
        return Status(Code::argument, "expected a JPEG or PNG file, got other bytes.");
    if (static_cast<std::int64_t>(width) * height > max_pixels)
        return Status(Code::argument, "the image is refused: " + std::to_string(width) + " x " +
                                          std::to_string(height) + " pixels are more than " +
                                          std::to_string(max_pixels / 1000000) + " million. Scale it down.");
    if (data[0] == 0xFF && !huffman_tables_fit(data, size)) return damaged();
    Pixels image;
    if (stbi_is_16_bit_from_memory(data, length) != 0) {
        const std::unique_ptr<std::uint16_t, Free> rgba(
            stbi_load_16_from_memory(data, length, &width, &height, &channels, 4));
        if (!rgba) return damaged();
        image = rgb_from_rgba(rgba.get(), width, height);
    } else {
        const std::unique_ptr<std::uint8_t, Free> rgba(
            stbi_load_from_memory(data, length, &width, &height, &channels, 4));
        if (!rgba) return damaged();
        image = rgb_from_rgba(rgba.get(), width, height);
    }
    return upright(std::move(image), exif_orientation(data, size));
}

Result<Pixels> read_image(const std::string& path, std::int64_t max_pixels) {
    std::error_code error;  // of a device or a pipe there would be no end
    const bool is_file = std::filesystem::is_regular_file(path, error);
    const std::uintmax_t size = is_file ? std::filesystem::file_size(path, error) : 0;
    std::ifstream file;
    if (!error && size > 0 && size <= kMaxBytes) file.open(path, std::ios::binary);
    std::vector<char> content(file.is_open() ? static_cast<std::size_t>(size) : 0);
    if (content.empty() || !file.read(content.data(), static_cast<std::streamsize>(content.size())))
        return Status(Code::argument, "no readable image at " + path + ".");
    return decode(reinterpret_cast<const std::uint8_t*>(content.data()), content.size(), max_pixels);
}

}  // namespace example
