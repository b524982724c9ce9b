// Which patch rows a block copies: a block-wide top-k selection with keys in registers.
//
// Thread t of warp w holds the keys of positions (w * kKeys + e) * 32 + t: consecutive lanes hold consecutive
// positions, so scores load coalesced and ballots count in position order.
#pragma once

#include "token_select.h"

namespace tokfilter {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;
constexpr int kMaxRowsPerBlock = 128;

// Bit layout of one score type: how it is stored, and its +infinity.
template <ScoreType kType>
struct ScoreBits;
template <>
struct ScoreBits<ScoreType::kFloat32> {
    using Word = unsigned;
    static constexpr unsigned kInfinity = 0x7F800000u;
};
template <>
struct ScoreBits<ScoreType::kFloat16> {
    using Word = unsigned short;
    static constexpr unsigned kInfinity = 0x7C00u;
};
template <>
struct ScoreBits<ScoreType::kBFloat16> {
    using Word = unsigned short;
    static constexpr unsigned kInfinity = 0x7F80u;
};

// Lowest bit in which two keys of this type can differ: 16-bit scores use the upper half of the word, which
// halves the search.
template <ScoreType kType>
constexpr unsigned kLowestKeyBit = 1u << (32 - 8 * sizeof(typename ScoreBits<kType>::Word));

// Unsigned key in the order of the scores: NaN as -inf, -0.0 as +0.0. Never 0, which marks "no key".
template <ScoreType kType>
__device__ __forceinline__ unsigned key_of(typename ScoreBits<kType>::Word score) {
    constexpr unsigned kSign = 0x80000000u;
    constexpr unsigned kInfinity = ScoreBits<kType>::kInfinity * kLowestKeyBit<kType>;
    unsigned bits = score * kLowestKeyBit<kType>;
    const unsigned magnitude = bits & ~kSign;
    if (magnitude > kInfinity) bits = kSign | kInfinity;
    if (magnitude == 0) bits = 0;
    const unsigned key = bits & kSign ? ~bits : bits | kSign;
    return key & ~(kLowestKeyBit<kType> - 1);
}

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x / kWarpSize); }

template <int kKeys>
__device__ __forceinline__ int position_of(int e) {
    return (warp_index() * kKeys + e) * kWarpSize + lane_index();
}

// Number of keys in the block that are at least `least`, known to every thread. One barrier per bit of the
// own count.
template <int kKeys>
__device__ __forceinline__ int block_count(const unsigned (&keys)[kKeys], unsigned least) {
    int own = 0;
#pragma unroll
    for (int e = 0; e < kKeys; ++e) own += keys[e] >= least;
    int total = 0;
#pragma unroll
    for (int bit = 0; (1 << bit) <= kKeys; ++bit) total += __syncthreads_count(own >> bit & 1) << bit;
    return total;
}

// Threshold of the `wanted` highest keys: at most `wanted` keys are above it, and at least `wanted` keys are
// above or equal to it. Built from the highest bit down; stops as soon as exactly `wanted` keys reach it.
template <int kKeys>
__device__ __forceinline__ unsigned find_cut(const unsigned (&keys)[kKeys], int wanted, unsigned lowest_bit) {
    unsigned cut = 0;
#pragma unroll 1
    for (unsigned bit = 0x80000000u; bit >= lowest_bit; bit >>= 1) {
        const int count = block_count(keys, cut | bit);
        if (count >= wanted) cut |= bit;
        if (count == wanted) break;
    }
    return cut;
}

// Calls visit(e, ordinal) for each of the thread's keys that is among the block's `wanted` highest. Among
// keys equal to the cut the lower position wins; `ordinal` counts the chosen keys at lower positions.
template <int kKeys, int kThreads, typename Visit>
__device__ __forceinline__ void visit_chosen(const unsigned (&keys)[kKeys], unsigned cut, int wanted,
                                             unsigned (&warp_totals)[kThreads / kWarpSize], Visit visit) {
    // Two counts in one word: keys above the cut in the low half, keys equal to the cut in the high half.
    unsigned own_warp = 0;
#pragma unroll
    for (int e = 0; e < kKeys; ++e) {
        own_warp += __popc(__ballot_sync(kWholeWarp, keys[e] > cut));
        own_warp += __popc(__ballot_sync(kWholeWarp, keys[e] == cut)) << 16;
    }
    if (lane_index() == 0) warp_totals[warp_index()] = own_warp;
    __syncthreads();
    unsigned before = 0, all = 0;
#pragma unroll(kKeys < 16 ? 4 : 1)  // every unrolled total needs a register; with 16 keys none is free
    for (int warp = 0; warp < kThreads / kWarpSize; ++warp) {
        const unsigned total = warp_totals[warp];
        if (warp < warp_index()) before += total;
        all += total;
    }
    const int ties = wanted - static_cast<int>(all & 0xFFFFu);
    const unsigned lower_lanes = (1u << lane_index()) - 1;
#pragma unroll
    for (int e = 0; e < kKeys; ++e) {
        const unsigned above = __ballot_sync(kWholeWarp, keys[e] > cut);
        const unsigned at = __ballot_sync(kWholeWarp, keys[e] == cut);
        const int above_before = static_cast<int>(before & 0xFFFFu) + __popc(above & lower_lanes);
        const int at_before = static_cast<int>(before >> 16) + __popc(at & lower_lanes);
        if (keys[e] > cut || (keys[e] == cut && at_before < ties))
            visit(e, above_before + min(at_before, ties));
        before += __popc(above) | __popc(at) << 16;
    }
}

template <int kThreads>
struct Workspace {
    unsigned warp_totals[kThreads / kWarpSize];
    unsigned window_keys[kMaxRowsPerBlock];  // order by score only: selected keys and positions, by position
    int window_positions[kMaxRowsPerBlock];
    int rows[kMaxRowsPerBlock];  // the result: positions among the patches, in output order
};

// Fills space.rows with the positions of the kept rows [first, last), counted in position order among the top
// `k`.
template <int kKeys, int kThreads>
__device__ __forceinline__ void choose_by_position(const unsigned (&keys)[kKeys], int k, int first, int last,
                                                   unsigned lowest_bit, Workspace<kThreads>& space) {
    const unsigned cut = find_cut(keys, k, lowest_bit);
    visit_chosen<kKeys, kThreads>(keys, cut, k, space.warp_totals, [&](int e, int ordinal) {
        if (first <= ordinal && ordinal < last) space.rows[ordinal - first] = position_of<kKeys>(e);
    });
    __syncthreads();
}

// Fills space.rows with the positions of ranks [first, last), highest score first: removes the `first`
// highest keys, selects the next `last - first` and ranks those by comparing each with each.
template <int kKeys, int kThreads>
__device__ __forceinline__ void choose_by_score(unsigned (&keys)[kKeys], int first, int last,
                                                unsigned lowest_bit, Workspace<kThreads>& space) {
    if (first > 0) {
        const unsigned cut = find_cut(keys, first, lowest_bit);
        unsigned gone = 0;
        visit_chosen<kKeys, kThreads>(keys, cut, first, space.warp_totals,
                                      [&](int e, int) { gone |= 1u << e; });
#pragma unroll
        for (int e = 0; e < kKeys; ++e) keys[e] = gone >> e & 1 ? 0 : keys[e];
        // The barriers of find_cut separate these reads of warp_totals from the next writes.
    }
    const int count = last - first;
    const unsigned cut = find_cut(keys, count, lowest_bit);
    visit_chosen<kKeys, kThreads>(keys, cut, count, space.warp_totals, [&](int e, int ordinal) {
        space.window_keys[ordinal] = keys[e];
        space.window_positions[ordinal] = position_of<kKeys>(e);
    });
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    if (own < count) {
        const unsigned key = space.window_keys[own];
        int rank = 0;
#pragma unroll 4
        for (int other = 0; other < count; ++other) {
            const unsigned other_key = space.window_keys[other];
            rank += other_key > key || (other_key == key && other < own);
        }
        space.rows[rank] = space.window_positions[own];
    }
    __syncthreads();
}

}  // namespace tokfilter
