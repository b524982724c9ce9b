// Tests of the CUDA-on-CPU layer: correct kernels with known results, and kernels with one known defect each.
// `check_layer NAME` runs one and prints the layer's report, or "ok".
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "cuda_on_cpu.h"

extern __shared__ unsigned char dynamic_shared[];

namespace {

using cuda_on_cpu::Access;
using cuda_on_cpu::DeviceBuffer;
using cuda_on_cpu::Schedule;

constexpr unsigned kAll = 0xFFFFFFFFu;

struct Out {
    int* out;
    const int* in;
};

unsigned rank() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

// ---- correct kernels: each thread stores one known word

void reverse_through_shared(Out p) {
    __shared__ int held[64];
    held[rank()] = __ldg(p.in + rank());
    __syncthreads();
    cuda_on_cpu::store(p.out + rank(), held[63 - rank()]);
}

void rotate_through_dynamic_shared(Out p) {
    int* const held = reinterpret_cast<int*>(dynamic_shared);
    held[rank()] = __ldg(p.in + rank());
    __syncthreads();
    cuda_on_cpu::store(p.out + rank(), held[(rank() + 1) % 64]);
}

void warp_operations(Out p) {
    const int lane = static_cast<int>(rank() % 32);
    int word = __popc(__ballot_sync(kAll, lane < 5));                // 5
    word += 10 * __shfl_sync(kAll, lane, 3);                         // 3
    word += 100 * (lane - __shfl_up_sync(kAll, lane, 1));            // 1, and 0 in lane 0
    word += 1000 * (__shfl_down_sync(kAll, lane, 2) - lane);         // 2, and 0 in the last two lanes
    word += 10000 * (__shfl_xor_sync(kAll, lane, 1) == (lane ^ 1));  // 1
    if (lane < 16) word += 100000 * __popc(__ballot_sync(0xFFFFu, lane >= 12));  // 4, of half a warp
    __syncwarp();
    word += 1000000 *
            (__any_sync(kAll, lane == 7) && __all_sync(kAll, lane < 32) && !__any_sync(kAll, lane > 31));
    cuda_on_cpu::store(p.out + rank(), word);
}

void block_votes_and_atomics(Out p) {
    __shared__ unsigned sum, bits, top;
    if (rank() == 0) sum = bits = top = 0;
    const int votes = __syncthreads_count(rank() % 4 == 0);
    atomicAdd(&sum, 1u);
    atomicOr(&bits, 1u << rank() % 8);
    atomicMax(&top, rank());
    const int any = __syncthreads_or(rank() == 9), all = __syncthreads_and(rank() != 9);
    cuda_on_cpu::store(p.out + rank(), votes + static_cast<int>(sum + bits + top) + any * 1000 + all * 10000);
}

// ---- kernels with a defect

void some_leave_before_the_barrier(Out) {
    if (rank() >= 48) return;
    __syncthreads();
}
void two_different_barriers(Out) {
    if (rank() < 32)
        __syncthreads();
    else
        __syncthreads();
}
void barrier_against_ballot(Out) {
    if (rank() % 32 < 8)
        __syncthreads();
    else
        __ballot_sync(kAll, 1);
}
void caller_outside_its_mask(Out) { __ballot_sync(0xFFFFu, 1); }
void lanes_of_the_mask_stay_away(Out) {
    if (rank() % 32 < 16) __shfl_sync(kAll, 1, 0);
}
void load_past_the_end(Out p) { __ldg(p.in + 64 + rank()); }
void store_before_the_start(Out p) { cuda_on_cpu::store(p.out + rank() - 1, 0); }
void misaligned_load(Out p) { __ldg(reinterpret_cast<const uint4*>(p.in + 1)); }
void store_to_an_input(Out p) { cuda_on_cpu::store(const_cast<int*>(p.in) + rank(), 0); }
void two_threads_store_one_word(Out p) { cuda_on_cpu::store(p.out + rank() / 2, 0); }
void access_around_the_layer(Out p) { *p.out = 0; }
void static_shared_past_the_end(Out p) {
    __shared__ int held[64];
    held[rank() + 1] = 0;
    cuda_on_cpu::store(p.out + rank(), held[0]);
}
void dynamic_shared_past_the_end(Out) { dynamic_shared[4 * 64 + rank()] = 0; }
void missing_barrier(Out p) {
    __shared__ int held[64];
    held[rank()] = __ldg(p.in + rank());
    cuda_on_cpu::store(p.out + rank(), held[63 - rank()]);
}

// ---- running them

std::string run(void (*kernel)(Out), const std::function<int(int)>& expected) {
    DeviceBuffer in("in", 64 * sizeof(int), Access::kRead), out("out", 64 * sizeof(int), Access::kWrite);
    for (int i = 0; i < 64; ++i) std::memcpy(in.host() + 4 * i, &i, 4);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(16, 2, 2);
    config.dynamicSmemBytes = 64 * sizeof(int);
    cudaLaunchKernelEx(&config, kernel,
                       Out{static_cast<int*>(out.device()), static_cast<const int*>(in.device())});
    if (!cuda_on_cpu::last_launch().report.empty()) return cuda_on_cpu::last_launch().report;
    for (int i = 0; i < 64; ++i) {
        int value = 0;
        std::memcpy(&value, out.host() + 4 * i, 4);
        if (expected != nullptr && value != expected(i))
            return "wrong result: " + std::to_string(value) + " in thread " + std::to_string(i);
    }
    return "ok";
}

int expected_warp_word(int i) {
    const int lane = i % 32;
    return 5 + 30 + 100 * (lane > 0) + 2000 * (lane < 30) + 10000 + 400000 * (lane < 16) + 1000000;
}

// The outcome under each execution order; the same for a kernel without races.
std::string run_in_every_order(void (*kernel)(Out), const std::function<int(int)>& expected) {
    for (const Schedule schedule : {Schedule::kAscending, Schedule::kDescending, Schedule::kShuffled}) {
        cuda_on_cpu::device().schedule = schedule;
        const std::string outcome = run(kernel, expected);
        if (outcome != "ok") return outcome;
    }
    return "ok";
}

}  // namespace

int main(int count, char** values) {
    struct KernelTest {
        void (*kernel)(Out);
        std::function<int(int)> expected;
    };
    const std::map<std::string, KernelTest> tests = {
        {"reverse_through_shared", {reverse_through_shared, [](int i) { return 63 - i; }}},
        {"rotate_through_dynamic_shared",
         {rotate_through_dynamic_shared, [](int i) { return (i + 1) % 64; }}},
        {"warp_operations", {warp_operations, expected_warp_word}},
        {"block_votes_and_atomics", {block_votes_and_atomics, [](int) { return 16 + 64 + 255 + 63 + 1000; }}},
        {"some_leave_before_the_barrier", {some_leave_before_the_barrier, nullptr}},
        {"two_different_barriers", {two_different_barriers, nullptr}},
        {"barrier_against_ballot", {barrier_against_ballot, nullptr}},
        {"caller_outside_its_mask", {caller_outside_its_mask, nullptr}},
        {"lanes_of_the_mask_stay_away", {lanes_of_the_mask_stay_away, nullptr}},
        {"load_past_the_end", {load_past_the_end, nullptr}},
        {"store_before_the_start", {store_before_the_start, nullptr}},
        {"misaligned_load", {misaligned_load, nullptr}},
        {"store_to_an_input", {store_to_an_input, nullptr}},
        {"two_threads_store_one_word", {two_threads_store_one_word, nullptr}},
        {"access_around_the_layer", {access_around_the_layer, nullptr}},
        {"static_shared_past_the_end", {static_shared_past_the_end, nullptr}},
        {"dynamic_shared_past_the_end", {dynamic_shared_past_the_end, nullptr}},
        {"missing_barrier", {missing_barrier, [](int i) { return 63 - i; }}},
    };
    const auto test = tests.find(count == 2 ? values[1] : "");
    if (test == tests.end()) {
        for (const auto& [name, unused] : tests) std::printf("%s\n", name.c_str());
        return 2;
    }
    std::printf("%s\n", run_in_every_order(test->second.kernel, test->second.expected).c_str());
    return 0;
}
