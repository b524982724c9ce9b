// Fake CUDA runtime: the functions that runtime/cpp calls, over host memory.
//
// Environment: FAKE_GPU is "none", "no-driver", "old-driver" or "broken"; otherwise there are two GPUs of
// compute capability 8.7. FAKE_CUDA_FAILS names a function that returns an error.
//
// Confirmed by: the real CUDA runtime (static, CUDA 13) without a driver returned the error that
// FAKE_GPU=no-driver returns (tests/runtime/cpp/test_linked.py). Streams, copies and events were not compared
// with a real GPU.
#include "cuda.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>

struct CUstream_st {
    std::deque<std::function<void()>> tasks;
};

namespace {

struct Mark {
    CUstream_st* stream;
    bool done = false;
    std::chrono::steady_clock::time_point when;
};

std::recursive_mutex mutex;
std::set<CUstream_st*> streams;
thread_local int current = 0;

void step(CUstream_st* stream) {
    if (stream->tasks.empty()) std::abort();  // a deadlock on a real GPU
    const auto task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    task();
}

void finish(CUstream_st* stream) {
    while (!stream->tasks.empty()) step(stream);
}

cudaError_t status_of(const char* function) {
    return fake::environment("FAKE_CUDA_FAILS") == std::string(function)
               ? (function == std::string("cudaMalloc") ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure)
               : cudaSuccess;
}

}  // namespace

struct CUevent_st {
    std::shared_ptr<Mark> mark;
};

namespace fake {

const char* environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

void put(cudaStream_t stream, std::function<void()> task) {
    const std::lock_guard lock(mutex);
    if (streams.count(stream) == 0) std::abort();  // destroyed or never created
    stream->tasks.push_back(std::move(task));
}

}  // namespace fake

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
    const std::string gpu = fake::environment("FAKE_GPU");
    *count = 0;
    if (gpu == "none") return cudaErrorNoDevice;
    if (gpu == "no-driver" || gpu == "old-driver") return cudaErrorInsufficientDriver;
    if (gpu == "broken") return cudaErrorSystemDriverMismatch;
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = fake::environment("FAKE_GPU") == std::string("no-driver") ? 0 : 11040;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    std::strcpy(properties->name, "Fake GPU");
    properties->major = 8;
    properties->minor = 7;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    current = device;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t size) {
    *memory = nullptr;
    if (status_of("cudaMalloc") != cudaSuccess) return status_of("cudaMalloc");
    *memory = std::malloc(size);
    return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
    const std::lock_guard lock(mutex);
    for (CUstream_st* stream : streams) finish(stream);
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    const std::lock_guard lock(mutex);
    *stream = *streams.insert(new CUstream_st).first;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    finish(stream);
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    finish(stream);
    return status_of("cudaStreamSynchronize");
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    if (status_of("cudaMemcpyAsync") != cudaSuccess) return status_of("cudaMemcpyAsync");
    fake::put(stream, [=] { std::memcpy(to, from, size); });
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    auto mark = event->mark = std::make_shared<Mark>(Mark{stream, false, {}});
    fake::put(stream, [mark] {
        mark->done = true;
        mark->when = std::chrono::steady_clock::now();
    });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    fake::put(stream, [mark = event->mark] {
        while (mark && !mark->done) step(mark->stream);
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const std::lock_guard lock(mutex);
    while (event->mark && !event->mark->done) step(event->mark->stream);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    if (!from->mark->done || !to->mark->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(to->mark->when - from->mark->when).count();
    return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure ? "unspecified launch failure" : "a fake error";
}

const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaErrorUnknown";
}

}  // extern "C"
