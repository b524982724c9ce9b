// Runs the blocks of a launch, one after another: CUDA threads as fibers, barriers and warp operations as
// meeting points.
//
// A thread runs until it has to wait. When nobody in the block can go on, either everyone stands at the same
// barrier, or the kernel has a defect, and the launch ends with a report that says who waits where.
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

// Where the kernel's source calls; two threads meet at a barrier only if their sites are the same.
struct Site {
    const char* file;
    int line;
};

enum class WarpOp : std::uint8_t { kSync, kBallot, kShuffle };

// What a running CUDA thread knows of itself.
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
