// Runs cases from standard input (case_stream.h) on the GPU with the CUDA runtime alone, for
// compute-sanitizer. One line of JSON per case; exit status 1 if any case failed, 3 if there is no usable
// GPU.
#include <cuda_runtime_api.h>

#include <cstring>
#include <string>

#include "case_stream.h"

namespace {

void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
    std::exit(3);
}

// Device memory of exactly the tensor's size: an access outside the tensor is outside the allocation.
class Buffer {
  public:
    Buffer(std::size_t bytes, std::int64_t offset)
        : bytes_(bytes), offset_(static_cast<std::size_t>(offset)) {
        check(cudaMalloc(&memory_, bytes_ + offset_));
        check(cudaMemset(memory_, 0xA5, bytes_ + offset_));
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { cudaFree(memory_); }

    void* data() const { return static_cast<unsigned char*>(memory_) + offset_; }
    void fill() const {
        const auto host = read_bytes(bytes_);
        check(cudaMemcpy(data(), host.get(), bytes_, cudaMemcpyHostToDevice));
    }
    bool equals(const unsigned char* expected) const {
        const auto host = std::make_unique<unsigned char[]>(bytes_);
        check(cudaMemcpy(host.get(), data(), bytes_, cudaMemcpyDeviceToHost));
        return std::memcmp(host.get(), expected, bytes_) == 0;
    }

  private:
    void* memory_ = nullptr;
    std::size_t bytes_, offset_;
};

std::string run(const CaseHeader& header) {
    const Buffer tokens(header.tokens_bytes(), header.tokens_offset);
    const Buffer scores(header.scores_bytes(), header.scores_offset);
    const Buffer selected(header.selected_bytes(), header.selected_offset);
    const Buffer indices(header.indices_bytes(), header.indices_offset);
    tokens.fill();
    scores.fill();
    const auto expected_selected = read_bytes(header.selected_bytes());
    const auto expected_indices = read_bytes(header.indices_bytes());
    const auto args = header.arguments(tokens.data(), scores.data(), selected.data(), indices.data());
    check(static_cast<cudaError_t>(tokfilter::token_select(args, nullptr)));
    check(cudaDeviceSynchronize());
    if (!selected.equals(expected_selected.get())) return "selected differs";
    return header.with_indices == 0 || indices.equals(expected_indices.get()) ? "" : "indices differ";
}

}  // namespace

int main() {
    int failures = 0;
    for (CaseHeader header; read_header(header);) {
        const std::string difference = run(header);
        std::printf("{\"difference\": \"%s\"}\n", difference.c_str());
        failures += !difference.empty();
    }
    return failures == 0 ? 0 : 1;
}
