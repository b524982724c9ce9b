// Runs the blocks of a launch one after another. Each CUDA thread is a fiber that switches at barriers and
// warp operations.
//
// A thread runs until it has to wait. When no thread of the block can continue, either all of them are at the
// same barrier, or the kernel is defective: the launch ends with a report of which thread waits where.
#pragma once

#include <cstdint>
#include <string>

namespace cuda_on_cpu {

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

struct Grid {
    Index3 blocks, threads;
    std::size_t dynamic_shared = 0;
};

// Source location of a call; a barrier opens only if all threads wait at the same location.
struct Site {
    const char* file;
    int line;
};

enum class WarpOp : std::uint8_t { kSync, kBallot, kShuffle };

// Coordinates of a running CUDA thread.
struct ThreadView {
    Index3 thread, block;
    const Grid* grid;
};
const ThreadView& this_thread();

struct BarrierVotes {
    int count;  // threads whose predicate was true
    int threads;
};
BarrierVotes block_barrier(bool predicate, Site site);

// Waits for every lane of `mask`. kBallot: bit mask of the true lanes. kShuffle: `value` of lane `source`
// (own if not in mask).
std::uint64_t warp_meet(WarpOp op, unsigned mask, std::uint64_t value, unsigned source, Site site);

unsigned lane_of_this_thread();

// Ends the launch with a report that starts with this thread's coordinates.
[[noreturn]] void fail(const std::string& what);

// Runs kernel(argument) for every thread of the grid. Returns false when a report was made.
bool run_grid(const Grid& grid, void (*kernel)(void*), void* argument);

}  // namespace cuda_on_cpu
