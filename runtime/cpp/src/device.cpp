#include "device.hpp"

#include "text.hpp"

namespace tokfilter {

Status cuda_status(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return {};
    if (error == cudaErrorMemoryAllocation)
        return {Code::memory,
                text(what, ": the GPU's memory is full. Use a smaller batch, or end what else runs there.")};
    return {Code::engine,
            text(what, " failed: ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ").")};
}

Result<Gpu> gpu_of(int number) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    int driver = 0;
    if (error == cudaErrorInsufficientDriver && (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0))
        return Status(
            Code::no_gpu,
            "no NVIDIA driver: its library libcuda.so.1 is not on this machine. Install the driver, or in a "
            "container start it with the NVIDIA runtime (--gpus all).");
    if (error == cudaErrorInsufficientDriver)
        return Status(Code::no_gpu,
                      text("the NVIDIA driver serves CUDA ", driver / 1000, ".", driver % 1000 / 10,
                           ", and this library was built with CUDA ", CUDART_VERSION / 1000, ".",
                           CUDART_VERSION % 1000 / 10, ". Update the driver."));
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return Status(
            Code::no_gpu,
            "no NVIDIA GPU: the driver is installed and sees none. Check CUDA_VISIBLE_DEVICES and the "
            "container's devices.");
    if (error != cudaSuccess)
        return Status(Code::no_gpu, text("the NVIDIA driver does not start (", cudaGetErrorString(error),
                                         "): reboot after an update of it."));
    if (number < 0 || number >= count)
        return Status(Code::no_gpu,
                      text("there are GPUs 0 to ", count - 1, " on this machine, got ", number, "."));
    cudaDeviceProp properties{};
    if (const Status status =
            cuda_status(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties");
        !status.ok())
        return status;
    return Gpu{number, properties.name, text(properties.major, ".", properties.minor)};
}

CurrentGpu::CurrentGpu(int number) noexcept {
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current == number) return;
    if (cudaSetDevice(number) == cudaSuccess) previous_ = current;
}

CurrentGpu::~CurrentGpu() {
    if (previous_ >= 0) cudaSetDevice(previous_);
}

Result<OwnStream> new_stream() {
    cudaStream_t stream = nullptr;
    // Non-blocking: not synchronised with the legacy default stream, which other libraries may use.
    if (const Status status =
            cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a CUDA stream");
        !status.ok())
        return status;
    return OwnStream(stream);
}

Result<OwnEvent> new_event() {
    cudaEvent_t event = nullptr;
    if (const Status status = cuda_status(cudaEventCreate(&event), "a CUDA event"); !status.ok())
        return status;
    return OwnEvent(event);
}

Status Buffer::reserve(std::size_t bytes) {
    if (bytes <= size_) return {};
    memory_.reset();
    size_ = 0;
    void* memory = nullptr;
    if (Status status = cuda_status(cudaMalloc(&memory, bytes), "device memory"); !status.ok()) return status;
    memory_.reset(memory);
    size_ = bytes;
    return {};
}

}  // namespace tokfilter
