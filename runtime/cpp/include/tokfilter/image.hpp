// From pixels to a model's input: the same numbers as tokfilter's Python and timm's evaluation transform.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tokfilter/status.hpp"

namespace tokfilter {

/// 8-bit RGB pixels of an upright image: [height, width, 3], rows without padding. Owned by the caller.
struct RgbImage {
    const std::uint8_t* pixels = nullptr;
    std::int64_t height = 0;
    std::int64_t width = 0;
};

/// How a model takes a batch of images (`tokfilter export --input`).
enum class InputForm {
    floats,      ///< [B, 3, H, W] float32, normalised
    uint8,       ///< [B, 3, H, W], 8-bit pixels that the model normalises
    uint8_nhwc,  ///< [B, H, W, 3], likewise
};

/// Preprocessing of a model, in timm's terms; read from the manifest of an export directory.
struct TOKFILTER_API Preprocess {
    std::int64_t height = 0;  ///< of the input, in pixels
    std::int64_t width = 0;
    std::array<double, 3> mean{};           ///< per channel, for pixels in 0..1
    std::array<double, 3> std{};            ///< likewise
    std::string interpolation = "bicubic";  ///< nearest, box, bilinear, hamming, bicubic or lanczos
    double crop_pct = 1.0;             ///< input size as a fraction of the size that the image is resized to
    std::string crop_mode = "center";  ///< center, squash or border
    InputForm form = InputForm::floats;

    /// The input of a model that takes floats: [3, height, width], normalised. Code::argument for an empty or
    /// too elongated image, and for a model that takes pixels.
    Result<std::vector<float>> input(const RgbImage& image) const noexcept;

    /// The input of a model that takes pixels: resized and cropped, in the order of `form`. Code::argument
    /// likewise, and for a model that takes floats.
    Result<std::vector<std::uint8_t>> pixels(const RgbImage& image) const noexcept;

    /// Shape of a batch in the order of `form`.
    std::array<std::int64_t, 4> shape(std::int64_t batch) const noexcept;
};

}  // namespace tokfilter
