// One image as the plan takes it: floats or pixels.
#pragma once

#include <algorithm>
#include <cmath>
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

/// An error where an output is NaN or infinite: it has no class.
inline tokfilter::Result<tokfilter::Output> classify(tokfilter::Engine& engine, const Input& input,
                                                     std::int64_t batch, std::int64_t tokens) {
    const auto* floats = std::get_if<std::vector<float>>(&input);
    auto output = floats ? engine.classify(*floats, batch, tokens)
                         : engine.classify_pixels(std::get<std::vector<std::uint8_t>>(input), batch, tokens);
    if (output.ok() && !std::all_of(output->logits.begin(), output->logits.end(),
                                    [](float value) { return std::isfinite(value); }))
        return tokfilter::Status(tokfilter::Code::engine,
                                 "the engine's output holds NaN or infinity: verify the plan with `tokfilter "
                                 "verify`, or build it in fp32.");
    return output;
}

}  // namespace example
