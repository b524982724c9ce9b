// Preprocessing and decoding: sizes and messages. Values are compared with Pillow and timm in
// tests/runtime/cpp/test_library.py.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "directory.hpp"
#include "image.hpp"
#include "preprocess.hpp"
#include "resample.hpp"

using tokfilter::Code;
using tokfilter::Preprocess;

namespace {

Preprocess square(double crop_pct = 1.0) {
    Preprocess to;
    to.height = to.width = 32;
    to.std = {1, 1, 1};
    to.crop_pct = crop_pct;
    return to;
}

example::Pixels numbered(std::int64_t height, std::int64_t width) {
    example::Pixels image{std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * 3)), height,
                          width};
    std::iota(image.values.begin(), image.values.end(), std::uint8_t{0});
    return image;
}

}  // namespace

TEST_CASE("a constant image stays constant through every filter and size") {
    for (const char* name : {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"})
        for (const std::int64_t size : {1, 2, 7, 33}) {
            const std::vector<std::uint8_t> grey(11 * 13 * 3, 200);
            const auto found =
                tokfilter::resize(grey.data(), 11, 13, size, 2 * size, *tokfilter::filter_from_name(name));
            CHECK(found == std::vector<std::uint8_t>(static_cast<std::size_t>(size * 2 * size * 3), 200));
        }
}

TEST_CASE("images that cannot be preprocessed are refused with a reason") {
    const std::uint8_t pixel[3] = {1, 2, 3};
    CHECK(square().input({pixel, 1, 1}).ok());
    CHECK_STATUS(square().input({nullptr, 4, 4}).status(), Code::argument,
                 "an image needs 1 to 100 million pixels");
    CHECK_STATUS(square().input({pixel, 0, 4}).status(), Code::argument, "got 4 x 0");
    CHECK_STATUS(square().input({pixel, std::int64_t{1} << 40, std::int64_t{1} << 40}).status(),
                 Code::argument, "1 to 100 million");
    const std::vector<std::uint8_t> strip(3 * 900'000);
    CHECK_STATUS(square(0.1).input({strip.data(), 1, 900'000}).status(), Code::argument, "too long a strip",
                 "million pixels");
    CHECK_STATUS(square(1e-300).input({pixel, 1, 1}).status(), Code::argument, "crop_pct from 0.01");
    Preprocess wrong = square();
    wrong.interpolation = "cubic";
    CHECK_STATUS(wrong.input({pixel, 1, 1}).status(), Code::argument, "interpolation to be one of",
                 "got 'cubic'");
}

TEST_CASE("the eight EXIF orientations are undone") {
    // Where the corner pixel of a 2 x 3 image comes to lie: EXIF's own definition of each orientation.
    const auto corner = [](int orientation) {
        const auto image = example::upright(numbered(2, 3), orientation);
        for (std::size_t i = 0; i < image.values.size(); i += 3)
            if (image.values[i] == 0)
                return std::pair(static_cast<std::int64_t>(i) / 3 / image.width,
                                 static_cast<std::int64_t>(i) / 3 % image.width);
        return std::pair(std::int64_t{-1}, std::int64_t{-1});
    };
    CHECK(corner(1) == std::pair<std::int64_t, std::int64_t>(0, 0));
    CHECK(corner(2) == std::pair<std::int64_t, std::int64_t>(0, 2));
    CHECK(corner(3) == std::pair<std::int64_t, std::int64_t>(1, 2));
    CHECK(corner(4) == std::pair<std::int64_t, std::int64_t>(1, 0));
    CHECK(corner(5) == std::pair<std::int64_t, std::int64_t>(0, 0));
    CHECK(corner(6) == std::pair<std::int64_t, std::int64_t>(0, 1));
    CHECK(corner(7) == std::pair<std::int64_t, std::int64_t>(2, 1));
    CHECK(corner(8) == std::pair<std::int64_t, std::int64_t>(2, 0));
    CHECK(example::upright(numbered(2, 3), 6).height == 3);
}

TEST_CASE("bytes that are not an image are refused") {
    const std::vector<std::uint8_t> noise(1000, 0x41);
    CHECK_STATUS(example::decode(noise.data(), noise.size(), 1000).status(), Code::argument,
                 "expected a JPEG or PNG file");
    CHECK_STATUS(example::decode(noise.data(), 0, 1000).status(), Code::argument, "JPEG or PNG");
    CHECK_STATUS(example::read_image("/nowhere.png", 1000).status(), Code::argument,
                 "no readable image at /nowhere.png");
}

TEST_CASE("what is no file, and a file without end, are not read") {
    for (const char* path : {"/dev/zero", "/dev/null", "/", "/proc/self/mem"})
        CHECK_STATUS(example::read_image(path, 1000).status(), Code::argument, "no readable image at");
    testing::Directory directory;
    const std::filesystem::path folder = directory.write(), pipe = folder / "pipe", hole = folder / "hole";
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    CHECK_STATUS(example::read_image(pipe.string(), 1000).status(), Code::argument, "no readable image at");
    std::ofstream(hole) << "x";
    std::filesystem::resize_file(hole, std::uintmax_t{1} << 40U);
    CHECK_STATUS(example::read_image(hole.string(), 1000).status(), Code::argument, "no readable image at");
}

TEST_CASE("damaged EXIF data count as orientation 1") {
    std::vector<std::uint8_t> data{0xFF, 0xD8, 0xFF, 0xE1, 0x00, 0x22, 'E', 'x', 'i', 'f',  0,    0, 'I',
                                   'I',  42,   0,    8,    0,    0,    0,   1,   0,   0x12, 0x01, 3, 0,
                                   1,    0,    0,    0,    6,    0,    0,   0,   0,   0,    0,    0};
    CHECK(example::exif_orientation(data.data(), data.size()) == 6);
    for (std::size_t length = 0; length < 31; ++length)
        CHECK(example::exif_orientation(data.data(), length) == 1);
    for (std::size_t i = 12; i < data.size(); ++i) {
        std::vector<std::uint8_t> bad = data;
        bad[i] = 0xFF;
        const int found = example::exif_orientation(bad.data(), bad.size());
        CHECK((found >= 1 && found <= 8));
    }
}
