#include "block.h"

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <vector>

#include "fiber.h"
#include "record.h"
#include "shared.h"

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarpSize = 32;

enum class State : std::uint8_t { kReady, kAtBarrier, kInWarp, kDone };

struct Thread {
    Fiber fiber;
    ThreadView view;
    unsigned rank = 0;
    State state = State::kDone;
    Site site{};
    bool predicate = false;  // barrier
    WarpOp op{};             // warp operation: inputs of this lane ...
    unsigned mask = 0, source = 0;
    std::uint64_t value = 0;
    std::uint64_t answer = 0;  // ... and its result
};

struct Warp {
    unsigned waiting = 0;               // lanes in a warp operation
    std::array<char, 2> sync_tokens{};  // ThreadSanitizer's names of this warp's last two __syncwarp
    unsigned sync_turn = 0;
};

const char* name_of(State state, WarpOp op) {
    if (state == State::kDone) return "has left the kernel";
    if (state == State::kAtBarrier) return "waits at a block barrier";
    if (op == WarpOp::kBallot) return "waits in a ballot";
    return op == WarpOp::kShuffle ? "waits in a shuffle" : "waits in __syncwarp";
}

std::string text_of(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string text_of(Index3 block) {
    return "block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " +
           std::to_string(block.z) + ")";
}

bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::string_view(a.file) == b.file);
}

class Executor {
  public:
    bool run(const Grid& grid, void (*kernel)(void*), void* argument);
    BarrierVotes barrier(bool predicate, Site site);
    std::uint64_t meet(WarpOp op, unsigned mask, std::uint64_t value, unsigned source, Site site);
    [[noreturn]] void fail(const std::string& what);
    Thread& current() { return *current_; }

  private:
    void start_block(const Grid& grid, Index3 block, void (*kernel)(void*), void* argument);
    void run_block();
    void run_warp(unsigned warp);
    bool settle();
    void complete_warp_op(Thread& last);
    std::string describe_deadlock() const;
    const std::vector<unsigned>& order(std::vector<unsigned>& items, unsigned count);

    std::vector<std::unique_ptr<Thread>>
        pool_;  // reused by all blocks: creating a stack costs more than running a block
    unsigned live_count_ = 0, thread_count_ = 0;
    std::vector<Warp> warps_;
    std::vector<unsigned> warp_order_, lane_order_;
    std::minstd_rand random_;
    Thread* current_ = nullptr;
    BarrierVotes votes_{};
    std::array<char, 2> barrier_tokens_{};
    char block_token_ = 0;
    unsigned barrier_turn_ = 0;
    bool failed_ = false;
};

Executor executor;  // one launch at a time: runtime.cpp holds a lock

void Executor::start_block(const Grid& grid, Index3 block, void (*kernel)(void*), void* argument) {
    const Index3 size = grid.threads;
    thread_count_ = size.x * size.y * size.z;
    while (pool_.size() < thread_count_) pool_.push_back(std::make_unique<Thread>());
    warps_.assign((thread_count_ + kWarpSize - 1) / kWarpSize, Warp{});
    for (unsigned rank = 0; rank < thread_count_; ++rank) {
        Thread& thread = *pool_[rank];
        thread.view = {{rank % size.x, rank / size.x % size.y, rank / (size.x * size.y)}, block, &grid};
        thread.rank = rank;
        thread.state = State::kReady;
        thread.fiber.start(kernel, argument);
    }
    live_count_ = thread_count_;
    fill_dynamic_shared(grid.dynamic_shared);
}

const std::vector<unsigned>& Executor::order(std::vector<unsigned>& items, unsigned count) {
    const bool kept = items.size() == count && device().schedule != Schedule::kShuffled;
    if (kept && count > 1 && (items[0] == 0) == (device().schedule == Schedule::kAscending)) return items;
    items.resize(count);
    for (unsigned i = 0; i < count; ++i)
        items[i] = device().schedule == Schedule::kDescending ? count - 1 - i : i;
    if (device().schedule == Schedule::kShuffled) std::shuffle(items.begin(), items.end(), random_);
    return items;
}

void Executor::run_warp(unsigned warp) {
    const unsigned first = warp * kWarpSize;
    const unsigned lanes = std::min(kWarpSize, thread_count_ - first);
    for (bool ran = true; ran && !failed_;) {
        ran = false;
        for (const unsigned lane : order(lane_order_, lanes)) {
            Thread& thread = *pool_[first + lane];
            if (thread.state != State::kReady || failed_) continue;
            current_ = &thread;
            thread.fiber.resume();
            ran = true;
        }
    }
}

// All threads wait or have returned: opens the barrier if all wait at the same one.
bool Executor::settle() {
    const auto begin = pool_.begin(), end = begin + thread_count_;
    const Site site = (*begin)->site;
    if (std::any_of(begin, end,
                    [&](const auto& t) { return t->state != State::kAtBarrier || !same(t->site, site); }))
        return false;
    votes_ = {0, static_cast<int>(thread_count_)};
    for (auto thread = begin; thread != end; ++thread) {
        votes_.count += (*thread)->predicate;
        (*thread)->state = State::kReady;
    }
    ++barrier_turn_;
    ++current_record().barriers;
    return true;
}

std::string Executor::describe_deadlock() const {
    const Thread& one = *pool_[0];
    std::string text = "barrier divergence: ";
    for (unsigned rank = 0; rank < thread_count_; ++rank) {
        const Thread& other = *pool_[rank];
        if (rank != 0 && other.state == one.state &&
            (one.state == State::kDone || same(other.site, one.site)) && rank + 1 != thread_count_)
            continue;
        text += (rank == 0 ? "thread " : "; thread ") + std::to_string(rank) + " " +
                name_of(other.state, other.op);
        if (other.state != State::kDone) text += " at " + text_of(other.site);
        if (other.state == State::kInWarp) text += " with mask " + std::to_string(other.mask);
        if (rank != 0) break;
    }
    return text;
}

void Executor::run_block() {
    do {
        const std::vector<unsigned> warps = order(warp_order_, static_cast<unsigned>(warps_.size()));
        for (const unsigned warp : warps) run_warp(warp);
        if (failed_ || live_count_ == 0) return;
    } while (settle());
    failed_ = true;
    current_record().report = text_of(pool_[0]->view.block) + ": " + describe_deadlock();
}

struct Entry {
    void (*kernel)(void*);
    void* argument;
    unsigned* live_count;
    char* block_token;
};

struct Defect {};  // unwinds the stack of the defective thread

void run_thread(void* data) {
    const Entry& entry = *static_cast<Entry*>(data);
    announce_departure(entry.block_token);
    try {
        entry.kernel(entry.argument);
    } catch (const Defect&) {
    }
    announce_arrival(entry.block_token);
    executor.current().state = State::kDone;
    --*entry.live_count;
}

bool Executor::run(const Grid& grid, void (*kernel)(void*), void* argument) {
    failed_ = false;
    random_.seed(device().seed);
    Entry entry{kernel, argument, &live_count_, &block_token_};
    const std::uint64_t plane = std::uint64_t{grid.blocks.x} * grid.blocks.y;
    const std::uint64_t count = plane * grid.blocks.z;
    for (std::uint64_t i = 0; i < count && !failed_; ++i) {
        const std::uint64_t at = device().schedule == Schedule::kAscending ? i : count - 1 - i;
        const Index3 block{static_cast<unsigned>(at % grid.blocks.x),
                           static_cast<unsigned>(at / grid.blocks.x % grid.blocks.y),
                           static_cast<unsigned>(at / plane)};
        start_block(grid, block, run_thread, &entry);
        announce_arrival(&block_token_);  // blocks share only the launch's arguments
        run_block();
        announce_departure(&block_token_);
        ++current_record().blocks;
    }
    return !failed_;
}

BarrierVotes Executor::barrier(bool predicate, Site site) {
    Thread& self = *current_;
    self.predicate = predicate;
    self.site = site;
    self.state = State::kAtBarrier;
    char* const token = &barrier_tokens_[barrier_turn_ % 2];  // two, alternating: an early arrival at the
                                                              // next barrier does not count for this one
    announce_arrival(token);
    self.fiber.suspend();
    announce_departure(token);
    return votes_;
}

void Executor::complete_warp_op(Thread& last) {
    const unsigned first = last.rank / kWarpSize * kWarpSize;
    Warp& warp = warps_[last.rank / kWarpSize];
    warp.waiting |= 1u << last.rank % kWarpSize;
    if ((warp.waiting & last.mask) != last.mask) return;
    std::uint64_t ballot = 0;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
        if ((last.mask >> lane & 1) == 0) continue;
        const Thread& peer = *pool_[first + lane];
        if (peer.op != last.op || peer.mask != last.mask) return;
        ballot |= std::uint64_t{peer.value != 0} << lane;
    }
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
        if ((last.mask >> lane & 1) == 0) continue;
        Thread& peer = *pool_[first + lane];
        const bool reaches = peer.source < kWarpSize && (last.mask >> peer.source & 1) != 0;
        peer.answer =
            last.op == WarpOp::kBallot ? ballot : (reaches ? *pool_[first + peer.source] : peer).value;
        peer.state = State::kReady;
    }
    warp.waiting &= ~last.mask;
    warp.sync_turn += last.op == WarpOp::kSync;
    ++current_record().warp_operations;
}

std::uint64_t Executor::meet(WarpOp op, unsigned mask, std::uint64_t value, unsigned source, Site site) {
    Thread& self = *current_;
    if ((mask >> self.rank % kWarpSize & 1) == 0)
        fail("warp operation at " + text_of(site) + " with mask " + std::to_string(mask) +
             ", which leaves out the calling lane");
    self.op = op;
    self.mask = mask;
    self.value = value;
    self.source = source;
    self.site = site;
    self.state = State::kInWarp;
    Warp& warp = warps_[self.rank / kWarpSize];
    char* const token = &warp.sync_tokens[warp.sync_turn % 2];
    if (op == WarpOp::kSync) announce_arrival(token);  // ballots and shuffles are no memory barriers
    complete_warp_op(self);
    self.fiber.suspend();
    if (op == WarpOp::kSync) announce_departure(token);
    return self.answer;
}

void Executor::fail(const std::string& what) {
    failed_ = true;
    current_record().report =
        text_of(current_->view.block) + ", thread " + std::to_string(current_->rank) + ": " + what;
    throw Defect{};
}

}  // namespace

const ThreadView& this_thread() { return executor.current().view; }
unsigned lane_of_this_thread() { return executor.current().rank % kWarpSize; }
BarrierVotes block_barrier(bool predicate, Site site) { return executor.barrier(predicate, site); }
std::uint64_t warp_meet(WarpOp op, unsigned mask, std::uint64_t value, unsigned source, Site site) {
    return executor.meet(op, mask, value, source, site);
}
void fail(const std::string& what) { executor.fail(what); }
bool run_grid(const Grid& grid, void (*kernel)(void*), void* argument) {
    return executor.run(grid, kernel, argument);
}

}  // namespace cuda_on_cpu
