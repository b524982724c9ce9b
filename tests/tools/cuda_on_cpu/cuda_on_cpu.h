// Interface of the CUDA-on-CPU layer for tests: device settings, device memory, launch records. Kernels do
// not include it.
//
// Confirmed by: NVIDIA H200, November 2026: the same kernel source passed the same cases on the GPU, under
// compute-sanitizer's memcheck, racecheck, initcheck and synccheck (docs/gpu.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cuda_on_cpu {

// Order in which threads of a warp, warps of a block and blocks of a grid run between two barriers. A kernel
// whose result depends on it has a race.
enum class Schedule : int { kAscending = 0, kDescending = 1, kShuffled = 2 };

struct Device {
    int multiprocessors = 16;  // what cudaDeviceGetAttribute reports; the default is a Jetson AGX Orin
    int runtime_error =
        0;  // a cudaError_t that cudaGetDevice returns, as on a machine without a GPU; 0 is none
    int launch_error = 0;  // a cudaError_t that every launch returns; 0 is none
    Schedule schedule = Schedule::kAscending;
    std::uint32_t seed = 1;
};
Device& device();

struct LaunchRecord {
    std::string report;  // the first defect of the last launch, or empty
    std::int64_t blocks = 0;
    std::int64_t barriers = 0;  // passed by whole blocks
    std::int64_t warp_operations = 0;
    std::int64_t loaded = 0, stored = 0;  // bytes of global memory
};
const LaunchRecord& last_launch();

enum class Access { kRead, kWrite };

// A device buffer. Its device addresses are not readable by the host: only the layer's loads and stores reach
// the bytes, so that every access is checked (bounds, alignment, direction, each byte stored once) and
// counted.
class DeviceBuffer {
  public:
    // `offset` bytes are put before the first byte, to misalign it.
    DeviceBuffer(std::string name, std::size_t bytes, Access access, std::size_t offset = 0);
    ~DeviceBuffer();
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    void* device() const { return device_begin_; }
    unsigned char* host() const { return host_begin_; }
    std::size_t size() const { return bytes_; }
    std::int64_t loaded() const { return loaded_; }
    std::int64_t stored() const { return stored_; }

  private:
    friend class GlobalAccess;
    std::string name_;
    std::size_t bytes_;
    Access access_;
    unsigned char* device_map_;
    unsigned char* host_map_;
    unsigned char* written_map_;
    std::size_t map_bytes_;
    unsigned char* device_begin_;
    unsigned char* host_begin_;
    unsigned char* written_;  // one byte per byte: 1 once stored
    std::int64_t loaded_ = 0, stored_ = 0;
};

}  // namespace cuda_on_cpu

// The same with C linkage, for ctypes.
extern "C" {
void cuda_on_cpu_set_device(int multiprocessors, int runtime_error, int launch_error, int schedule,
                            unsigned seed);
// Bytes loaded and stored, blocks and barriers of the last launch; returns its report, empty when there was
// no defect.
const char* cuda_on_cpu_last_launch(std::int64_t counts[4]);
}
