// One warp copies one row: every byte is loaded and stored once, in the widest accesses that the alignment of
// both addresses allows.
#pragma once

#include <cstdint>

#include "global_memory.cuh"

namespace tokfilter {

// `count` vectors of type V; four loads in flight per lane before the first store.
template <typename V>
__device__ __forceinline__ void copy_vectors(unsigned char* to, const unsigned char* from, int count,
                                             int lane) {
    constexpr int kWarpSize = 32, kInFlight = 4;
    V* target = reinterpret_cast<V*>(to) + lane;
    const V* source = reinterpret_cast<const V*>(from) + lane;
#pragma unroll 1
    for (int left = count - lane; left > 0; left -= kInFlight * kWarpSize) {
        V held[kInFlight]{};
#pragma unroll
        for (int u = 0; u < kInFlight; ++u)
            if (u * kWarpSize < left) held[u] = load_global(source + u * kWarpSize);
#pragma unroll
        for (int u = 0; u < kInFlight; ++u)
            if (u * kWarpSize < left) store_global(target + u * kWarpSize, held[u]);
        source += kInFlight * kWarpSize;
        target += kInFlight * kWarpSize;
    }
}

// Rows whose addresses agree modulo 16 move in 16-byte accesses between a head and a tail; others in the
// widest power of two by which the addresses differ (rows whose byte length is a multiple of 16 in aligned
// buffers have neither).
__device__ __forceinline__ void copy_row(unsigned char* to, const unsigned char* from, int bytes, int lane) {
    const unsigned target = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(to));
    const unsigned apart = (target ^ static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(from))) & 15u;
    const int width = apart == 0 ? 16 : static_cast<int>(apart & (0u - apart));
    const int head = min(static_cast<int>((0u - target) & static_cast<unsigned>(width - 1)), bytes);
    const int body = (bytes - head) & ~(width - 1);
    const int tail = bytes - head - body;
    // Head and tail have at most 15 bytes each: the lower half of the warp moves one, the upper half the
    // other.
    const int edge = lane < 16 ? lane : lane - 16 + head + body;
    if (lane < 16 ? lane < head : lane - 16 < tail) store_global(to + edge, load_global(from + edge));
    to += head;
    from += head;
    switch (width) {
        case 16:
            return copy_vectors<uint4>(to, from, body / 16, lane);
        case 8:
            return copy_vectors<uint2>(to, from, body / 8, lane);
        case 4:
            return copy_vectors<unsigned>(to, from, body / 4, lane);
        case 2:
            return copy_vectors<unsigned short>(to, from, body / 2, lane);
        default:
            return copy_vectors<unsigned char>(to, from, body, lane);
    }
}

}  // namespace tokfilter
