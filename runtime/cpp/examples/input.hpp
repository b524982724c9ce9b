// One image as the plan takes it: floats or pixels.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "tokfilter/engine.hpp"

namespace example {

/// One image, or a batch of them one after another.
using Input = std::variant<std::vector<float>, std::vector<std::uint8_t>>;

inline tokfilter::Result<Input> input_of(const tokfilter::Preprocess& preprocess,
                                         const tokfilter::RgbImage& image) {
    if (preprocess.form == tokfilter::InputForm::floats) {
        auto floats = preprocess.input(image);
        if (!floats.ok()) return floats.status();
        return Input(*std::move(floats));
    }
    auto pixels = preprocess.pixels(image);
    if (!pixels.ok()) return pixels.status();
    return Input(*std::move(pixels));
}

/// Add the images of `more`, which holds the same type, to `batch`.
inline void append(Input& batch, const Input& more) {
    std::visit(
        [&](auto& values) {
            const auto& added = std::get<std::decay_t<decltype(values)>>(more);
            values.insert(values.end(), added.begin(), added.end());
        },
        batch);
}

inline tokfilter::Result<tokfilter::Output> classify(tokfilter::Engine& engine, const Input& input,
                                                     std::int64_t batch, std::int64_t tokens) {
    if (const auto* floats = std::get_if<std::vector<float>>(&input))
        return engine.classify(*floats, batch, tokens);
    return engine.classify_pixels(std::get<std::vector<std::uint8_t>>(input), batch, tokens);
}

}  // namespace example
