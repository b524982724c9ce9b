// RAII wrappers of the CUDA runtime: GPU, stream, event, buffer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "tokfilter/status.hpp"

namespace tokfilter {

/// Ok for cudaSuccess, else Code::memory or Code::engine with `what` and CUDA's message.
Status cuda_status(cudaError_t error, const char* what);

/// A GPU that can be used.
struct Gpu {
    int number = 0;
    std::string name;
    std::string capability;  ///< e.g. "8.7"
};

/// Properties of a GPU. Code::no_gpu: no driver, a driver that is too old, or no GPU with this index.
Result<Gpu> gpu_of(int number);

/// Makes a GPU current in this thread; the destructor restores the previous one.
class CurrentGpu {
  public:
    explicit CurrentGpu(int number) noexcept;
    ~CurrentGpu();
    CurrentGpu(const CurrentGpu&) = delete;
    CurrentGpu& operator=(const CurrentGpu&) = delete;

  private:
    int previous_ = -1;
};

struct DestroyStream {
    void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
struct DestroyEvent {
    void operator()(cudaEvent_t event) const noexcept { cudaEventDestroy(event); }
};
using OwnStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using OwnEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

Result<OwnStream> new_stream();
Result<OwnEvent> new_event();

/// Device memory that grows on demand. Growing synchronises with the GPU.
class Buffer {
  public:
    /// At least `bytes`, content undefined. Code::memory.
    Status reserve(std::size_t bytes);
    void* data() const noexcept { return memory_.get(); }

  private:
    struct Free {
        void operator()(void* memory) const noexcept { cudaFree(memory); }
    };
    std::unique_ptr<void, Free> memory_;
    std::size_t size_ = 0;
};

}  // namespace tokfilter
