// Checks of the launcher's arguments, before anything is enqueued.
#pragma once

#include <cstdint>
#include <limits>

#include "token_select.h"

namespace tokfilter {

constexpr std::int64_t kMaxPatches = 8192;  // a block holds every score of an image in its registers

inline std::int64_t score_size(ScoreType type) { return type == ScoreType::kFloat32 ? 4 : 2; }

inline bool is_aligned(const void* pointer, std::int64_t bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

struct Extent {
    std::uintptr_t begin, end;
    Extent(const void* pointer, std::int64_t bytes)
        : begin(reinterpret_cast<std::uintptr_t>(pointer)), end(begin + static_cast<std::uintptr_t>(bytes)) {}
    bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

inline const char* check_sizes(const TokenSelectArgs& a) noexcept {
    constexpr std::int64_t kInt32 = std::numeric_limits<std::int32_t>::max();
    constexpr std::int64_t kInt64 = std::numeric_limits<std::int64_t>::max();
    if (a.batch < 1) return "batch must be at least 1";
    if (a.prefix < 0) return "prefix must not be negative";
    if (a.patches < 1) return "patches must be at least 1";
    if (a.channels < 1) return "channels must be at least 1";
    if (a.k < 1) return "k must be at least 1";
    if (a.k > a.patches) return "k must not exceed the number of patches";
    if (a.element_size != 1 && a.element_size != 2 && a.element_size != 4)
        return "element_size must be 1, 2 or 4 bytes";
    if (a.score_type != ScoreType::kFloat32 && a.score_type != ScoreType::kFloat16 &&
        a.score_type != ScoreType::kBFloat16)
        return "score_type must be float32, float16 or bfloat16";
    if (a.order != Order::kPosition && a.order != Order::kScore) return "order must be position or score";
    if (a.patches > kMaxPatches) return "patches must be at most 8192, the scores that one block can hold";
    if (a.batch > kInt32) return "batch must be below 2^31";
    if (a.prefix > kInt32 - a.patches) return "prefix + patches must be below 2^31";
    if (a.channels > kInt32 / a.element_size)
        return "a row (channels * element_size) must be below 2^31 bytes";
    if (a.batch > kInt64 / ((a.prefix + a.patches) * a.channels * a.element_size))
        return "tokens must be below 2^63 bytes";
    return nullptr;
}

inline const char* check_buffers(const TokenSelectArgs& a) noexcept {
    if (a.tokens == nullptr) return "tokens must not be null";
    if (a.scores == nullptr) return "scores must not be null";
    if (a.selected == nullptr) return "selected must not be null";
    if (!is_aligned(a.tokens, a.element_size)) return "tokens must be aligned to element_size";
    if (!is_aligned(a.selected, a.element_size)) return "selected must be aligned to element_size";
    if (!is_aligned(a.scores, score_size(a.score_type))) return "scores must be aligned to their type";
    if (!is_aligned(a.indices, 4)) return "indices must be aligned to 4 bytes";
    const std::int64_t row = a.channels * a.element_size;
    const Extent tokens(a.tokens, a.batch * (a.prefix + a.patches) * row);
    const Extent scores(a.scores, a.batch * a.patches * score_size(a.score_type));
    const Extent selected(a.selected, a.batch * (a.prefix + a.k) * row);
    const Extent indices(a.indices, a.indices == nullptr ? 0 : a.batch * a.k * 4);
    if (selected.overlaps(tokens)) return "selected must not overlap tokens: blocks run in any order";
    if (selected.overlaps(scores)) return "selected must not overlap scores: blocks run in any order";
    if (selected.overlaps(indices)) return "selected must not overlap indices";
    if (indices.overlaps(tokens)) return "indices must not overlap tokens: blocks run in any order";
    if (indices.overlaps(scores)) return "indices must not overlap scores: blocks run in any order";
    return nullptr;
}

inline const char* first_error(const TokenSelectArgs& args) noexcept {
    const char* const sizes = check_sizes(args);
    return sizes != nullptr ? sizes : check_buffers(args);
}

}  // namespace tokfilter
