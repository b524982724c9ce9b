// The rules are those of runtime/preprocess.py: timm's (transforms_imagenet_eval), or for the crop modes with
// -floor those of transformers.
#include "preprocess.hpp"

#include <algorithm>
#include <cmath>

#include "guard.hpp"
#include "resample.hpp"
#include "text.hpp"

namespace tokfilter {
namespace {

constexpr double kMaxPixels = 100e6;                 // 300 MB of RGB
constexpr double kLeastCrop = 0.01, kLargest = 1e6;  // as artifacts/manifest_checks.py

// Truncates, with a limit: sizes beyond 1e15 are too large in any case.
std::int64_t whole(double value) { return static_cast<std::int64_t>(std::clamp(value, -1e15, 1e15)); }

// Python's round: halves to the even neighbour.
std::int64_t rounded(double value) { return whole(std::nearbyint(value)); }

bool squashes(const Preprocess& to) { return to.crop_mode == "squash" || to.crop_mode == "squash-floor"; }

bool centers(const Preprocess& to) { return to.crop_mode == "center" || to.crop_mode == "center-floor"; }

// Start of the resized image on the canvas along one axis; negative when it is cropped.
std::int64_t offset(std::int64_t resized, std::int64_t canvas, bool floor) {
    if (resized < canvas) return (canvas - resized) / 2;
    if (floor) return -((resized - canvas) / 2);
    return -rounded(static_cast<double>(resized - canvas) / 2.0);
}

// The image at the model's input size, [height, width, 3]: cropped, or padded with the mean.
std::vector<std::uint8_t> view(const Preprocess& to, const std::vector<std::uint8_t>& pixels, Size size) {
    const auto height = static_cast<std::size_t>(to.height), width = static_cast<std::size_t>(to.width);
    std::vector<std::uint8_t> canvas(height * width * 3);
    if (to.crop_mode == "border")
        for (std::size_t i = 0; i < canvas.size(); ++i)
            canvas[i] =
                static_cast<std::uint8_t>(std::clamp<std::int64_t>(rounded(255 * to.mean[i % 3]), 0, 255));
    const bool floor = to.crop_mode == "center-floor" || to.crop_mode == "squash-floor";
    const std::int64_t top = offset(size.height, to.height, floor);
    const std::int64_t left = offset(size.width, to.width, floor);
    const std::int64_t first = std::max<std::int64_t>(left, 0), last = std::min(to.width, left + size.width);
    for (std::int64_t y = std::max<std::int64_t>(top, 0); y < std::min(to.height, top + size.height); ++y) {
        const auto from = pixels.begin() + ((y - top) * size.width + (first - left)) * 3;
        std::copy(from, from + (last - first) * 3, canvas.begin() + (y * to.width + first) * 3);
    }
    return canvas;
}

std::vector<float> normalised(const Preprocess& to, const std::vector<std::uint8_t>& view) {
    const std::size_t plane = view.size() / 3;
    std::vector<float> input(view.size());
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const auto mean = static_cast<float>(to.mean[channel]), std = static_cast<float>(to.std[channel]);
        for (std::size_t i = 0; i < plane; ++i)
            input[channel * plane + i] = (static_cast<float>(view[i * 3 + channel]) / 255.0F - mean) / std;
    }
    return input;
}

std::vector<std::uint8_t> planes(const std::vector<std::uint8_t>& view) {
    const std::size_t plane = view.size() / 3;
    std::vector<std::uint8_t> input(view.size());
    for (std::size_t i = 0; i < view.size(); ++i) input[i % 3 * plane + i / 3] = view[i];
    return input;
}

// The image at the model's input size, [height, width, 3].
Result<std::vector<std::uint8_t>> view_of(const Preprocess& to, const RgbImage& image) {
    if (Status status = check_preprocess(to); !status.ok()) return Status(Code::argument, status.message());
    if (image.pixels == nullptr || image.height < 1 || image.width < 1 ||
        static_cast<double>(image.height) * static_cast<double>(image.width) > kMaxPixels)
        return Status(Code::argument, text("an image needs 1 to 100 million pixels, got ", image.width, " x ",
                                           image.height, "."));
    const Size size = resized(to, {image.height, image.width});
    const double count = static_cast<double>(size.height) * static_cast<double>(size.width);
    if (count > kMaxPixels)
        return Status(Code::argument,
                      text("an image of ", image.width, " x ", image.height,
                           " pixels is too long a strip: resized it would have ", rounded(count / 1e6),
                           " million pixels. Cut out the part to be classified."));
    const auto pixels = resize(image.pixels, image.height, image.width, size.height, size.width,
                               *filter_from_name(to.interpolation));
    return view(to, pixels, size);
}

}  // namespace

Status check_preprocess(const Preprocess& preprocess) {
    const double most = static_cast<double>(std::min(preprocess.height, preprocess.width));
    if (most < 1 || !(preprocess.crop_pct >= kLeastCrop && preprocess.crop_pct <= most))
        return {Code::manifest, text("preprocessing expects a size above 0 and a crop_pct from ", kLeastCrop,
                                     " to the shorter edge, got crop_pct ", preprocess.crop_pct)};
    for (std::size_t i = 0; i < 3; ++i)
        if (!(std::abs(preprocess.mean[i]) <= kLargest && std::abs(preprocess.std[i]) <= kLargest &&
              std::abs(preprocess.std[i]) >= 1 / kLargest))  // false for NaN too
            return {Code::manifest,
                    "preprocessing expects finite means, and standard deviations that are not 0"};
    if (!filter_from_name(preprocess.interpolation))
        return {Code::manifest,
                text("preprocessing expects interpolation to be one of nearest, bilinear, bicubic, box, "
                     "hamming, lanczos, got '",
                     printable(preprocess.interpolation), "'")};
    if (!centers(preprocess) && !squashes(preprocess) && preprocess.crop_mode != "border")
        return {Code::manifest,
                text("preprocessing expects crop_mode to be one of center, squash, border, center-floor, "
                     "squash-floor, got '",
                     printable(preprocess.crop_mode), "'")};
    return {};
}

Size resized(const Preprocess& to, Size image) {
    const double high = static_cast<double>(image.height), wide = static_cast<double>(image.width);
    const Size scale{whole(std::floor(static_cast<double>(to.height) / to.crop_pct)),
                     whole(std::floor(static_cast<double>(to.width) / to.crop_pct))};
    if (squashes(to)) return scale;
    if (centers(to) && scale.height == scale.width) {
        // torchvision truncates the longer edge here; timm rounds it everywhere else.
        const double edge = static_cast<double>(scale.height);
        if (image.width <= image.height) return {whole(edge * high / wide), scale.height};
        return {scale.height, whole(edge * wide / high)};
    }
    const double ratio_high = high / static_cast<double>(scale.height);
    const double ratio_wide = wide / static_cast<double>(scale.width);
    const double ratio =
        to.crop_mode == "border" ? std::max(ratio_high, ratio_wide) : std::min(ratio_high, ratio_wide);
    return {std::max<std::int64_t>(1, rounded(high / ratio)),
            std::max<std::int64_t>(1, rounded(wide / ratio))};
}

Result<std::vector<float>> Preprocess::input(const RgbImage& image) const noexcept {
    return guarded([&]() -> Result<std::vector<float>> {
        if (form != InputForm::floats)
            return Status(Code::argument,
                          "this model normalises its input itself: call pixels(), not input().");
        const auto view = view_of(*this, image);
        if (!view.ok()) return view.status();
        return normalised(*this, *view);
    });
}

Result<std::vector<std::uint8_t>> Preprocess::pixels(const RgbImage& image) const noexcept {
    return guarded([&]() -> Result<std::vector<std::uint8_t>> {
        if (form == InputForm::floats)
            return Status(Code::argument,
                          "this model takes normalised floats: call input(), or export with --input uint8.");
        auto view = view_of(*this, image);
        if (!view.ok() || form == InputForm::uint8_nhwc) return view;
        return planes(*view);
    });
}

std::array<std::int64_t, 4> Preprocess::shape(std::int64_t batch) const noexcept {
    if (form == InputForm::uint8_nhwc) return {batch, height, width, 3};
    return {batch, 3, height, width};
}

}  // namespace tokfilter
