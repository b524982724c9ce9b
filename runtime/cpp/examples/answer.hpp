// Class and probability from logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "tokfilter/engine.hpp"

namespace example {

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
