#include <mutex>
#include <utility>

#include "cuda_on_cpu.h"
#include "include/cuda_runtime.h"
#include "record.h"
#include "shared.h"

namespace cuda_on_cpu {
namespace {

// Limits of every compute capability since 7.5 (CUDA C++ Programming Guide, table "Technical
// Specifications").
constexpr std::uint64_t kMaxThreads = 1024, kMaxThreadsZ = 64, kMaxGridX = 0x7FFFFFFF, kMaxGridYZ = 65535;

Device the_device;
thread_local LaunchRecord record;
thread_local cudaError_t last_error = cudaSuccess;

bool within_limits(const Grid& grid) {
    const auto& [blocks, threads, shared] = grid;
    const std::uint64_t volume = std::uint64_t{threads.x} * threads.y * threads.z;
    return blocks.x >= 1 && blocks.y >= 1 && blocks.z >= 1 && blocks.x <= kMaxGridX &&
           blocks.y <= kMaxGridYZ && blocks.z <= kMaxGridYZ && volume >= 1 && volume <= kMaxThreads &&
           threads.z <= kMaxThreadsZ && shared <= kMaxShared;
}

cudaError_t noted(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

}  // namespace

Device& device() { return the_device; }
LaunchRecord& current_record() { return record; }
const LaunchRecord& last_launch() { return record; }

int launch(const Grid& grid, void (*kernel)(void*), void* argument) {
    static std::mutex turn;
    const std::lock_guard<std::mutex> lock(turn);
    record = LaunchRecord{};
    if (!within_limits(grid)) return noted(cudaErrorInvalidConfiguration);
    if (the_device.launch_error != 0) return noted(static_cast<cudaError_t>(the_device.launch_error));
    return noted(run_grid(grid, kernel, argument) ? cudaSuccess : cudaErrorLaunchFailure);
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

extern "C" {

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return noted(static_cast<cudaError_t>(the_device.runtime_error));
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (attribute != cudaDevAttrMultiProcessorCount || device != 0) return noted(cudaErrorInvalidValue);
    *value = the_device.multiprocessors;
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorInsufficientDriver:
            return "cudaErrorInsufficientDriver";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
    }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

void cuda_on_cpu_set_device(int multiprocessors, int runtime_error, int launch_error, int schedule,
                            unsigned seed) {
    the_device = {multiprocessors, runtime_error, launch_error, static_cast<Schedule>(schedule), seed};
}

const char* cuda_on_cpu_last_launch(std::int64_t counts[4]) {
    counts[0] = record.loaded;
    counts[1] = record.stored;
    counts[2] = record.blocks;
    counts[3] = record.barriers;
    return record.report.c_str();
}

}  // extern "C"
