// Test cases as benchmarks/micro/kernel_cases.py writes them: 16 little-endian int64, tokens, scores,
// expected selected, expected indices.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "token_select.h"

struct CaseHeader {
    std::int64_t batch, prefix, patches, channels, k;
    std::int64_t element_size, score_type, order, with_indices;
    std::int64_t multiprocessors, schedule, seed;  // settings of the CUDA-on-CPU layer
    std::int64_t tokens_offset, scores_offset, selected_offset,
        indices_offset;  // bytes that misalign a buffer

    std::size_t tokens_bytes() const { return product(batch, prefix + patches, channels, element_size); }
    std::size_t scores_bytes() const { return product(batch, patches, score_type == 0 ? 4 : 2); }
    std::size_t selected_bytes() const { return product(batch, prefix + k, channels, element_size); }
    std::size_t indices_bytes() const { return product(batch, k, 4); }

    tokfilter::TokenSelectArgs arguments(const void* tokens, const void* scores, void* selected,
                                         void* indices) const {
        tokfilter::TokenSelectArgs args{};
        args.tokens = tokens;
        args.scores = scores;
        args.selected = selected;
        args.indices = with_indices != 0 ? static_cast<std::int32_t*>(indices) : nullptr;
        args.batch = batch;
        args.prefix = prefix;
        args.patches = patches;
        args.channels = channels;
        args.k = k;
        args.element_size = static_cast<std::int32_t>(element_size);
        args.score_type = static_cast<tokfilter::ScoreType>(score_type);
        args.order = static_cast<tokfilter::Order>(order);
        return args;
    }

  private:
    template <typename... Factors>
    static std::size_t product(Factors... factors) {
        return static_cast<std::size_t>((std::int64_t{1} * ... * static_cast<std::int64_t>(factors)));
    }
};
static_assert(sizeof(CaseHeader) == 16 * 8);

// Reads exactly `bytes`; ends the program with an error if the stream is truncated.
inline void read_or_exit(void* to, std::size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) == bytes) return;
    std::fprintf(stderr, "the stream of cases is truncated\n");
    std::exit(2);
}

inline std::unique_ptr<unsigned char[]> read_bytes(std::size_t bytes) {
    auto data = std::make_unique<unsigned char[]>(bytes);
    read_or_exit(data.get(), bytes);
    return data;
}

// False at the end of the stream.
inline bool read_header(CaseHeader& header) {
    const int first = std::getchar();
    if (first == EOF) return false;
    std::ungetc(first, stdin);
    read_or_exit(&header, sizeof(header));
    return true;
}
