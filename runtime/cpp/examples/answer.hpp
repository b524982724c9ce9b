// Class and probability from logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "tokfilter/engine.hpp"

namespace example {

/// A name from a file as a terminal may get it: ASCII control characters and bytes outside ASCII that could
/// begin a control sequence (U+0080 to U+009F) become "?".
inline std::string printable(std::string name) {
    for (std::size_t i = 0; i < name.size(); ++i) {
        const auto byte = static_cast<unsigned char>(name[i]);
        const auto next = i + 1 < name.size() ? static_cast<unsigned char>(name[i + 1]) : 0u;
        if (byte < 0x20 || byte == 0x7f) name[i] = '?';
        if (byte == 0xc2 && next < 0xa0) name.replace(i, next == 0 ? 1 : 2, "?");
    }
    return name;
}

/// The class of the largest logit.
struct Answer {
    std::size_t number = 0;
    std::string name;
    double probability = 0;
};

/// logits: [info.classes]
inline Answer answer_from_logits(const float* logits, const tokfilter::Info& info) {
    const auto classes = static_cast<std::size_t>(info.classes);
    const float* best = std::max_element(logits, logits + classes);
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c)
        sum += std::exp(static_cast<double>(logits[c]) - static_cast<double>(*best));
    Answer answer;
    answer.number = static_cast<std::size_t>(best - logits);
    answer.name = answer.number < info.class_names.size() ? info.class_names[answer.number]
                                                          : "class " + std::to_string(answer.number);
    answer.probability = 1.0 / sum;
    return answer;
}

}  // namespace example
