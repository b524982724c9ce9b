// Images for the fake model and its expected outputs.
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "directory.hpp"

namespace testing {

/// Images whose sums are known: image b is b + 1 in its first value and 0 elsewhere.
inline std::vector<float> images(std::int64_t batch) {
    std::vector<float> values(static_cast<std::size_t>(batch * Directory::kPixels));
    for (std::int64_t b = 0; b < batch; ++b)
        values[static_cast<std::size_t>(b * Directory::kPixels)] = static_cast<float>(b + 1);
    return values;
}

/// The same images as 8-bit pixels.
inline std::vector<std::uint8_t> pixels(std::int64_t batch) {
    const auto values = images(batch);
    return {values.begin(), values.end()};
}

/// Whether these are the fake model's outputs (tests/tools/fake_tensorrt/runtime/plan.hpp) for images(batch).
inline bool is_right(const float* logits, const std::int32_t* indices, std::int64_t batch,
                     std::int64_t tokens) {
    bool right = true;
    for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t c = 0; c < 5; ++c)
            right = right && logits[b * 5 + c] == static_cast<float>((b + 1) * (c + 1) + tokens);
        for (std::int64_t j = 0; indices != nullptr && j < tokens; ++j)
            right = right && indices[b * tokens + j] == 12 - tokens + j;
    }
    return right;
}

inline bool is_right(const tokfilter::Output& output) {
    return is_right(output.logits.data(), output.indices.empty() ? nullptr : output.indices.data(),
                    output.batch, output.tokens);
}

/// A call into vectors that are just large enough.
struct HostCall {
    std::vector<float> input, logits;
    std::vector<std::int32_t> indices;
    tokfilter::Call call;

    HostCall(std::int64_t batch, std::int64_t tokens)
        : input(images(batch)),
          logits(static_cast<std::size_t>(batch * 5)),
          indices(static_cast<std::size_t>(batch * tokens)) {
        call.images = input.data();
        call.shape = {batch, 3, 8, 6};
        call.tokens = tokens;
        call.logits = logits.data();
        call.logits_room = logits.size();
        call.indices = indices.data();
        call.indices_room = indices.size();
    }
};

}  // namespace testing
