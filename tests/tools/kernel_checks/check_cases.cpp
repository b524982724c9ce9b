// Runs cases from standard input (case_stream.h) on the CUDA-on-CPU layer; compares the results bit by bit,
// and the bytes loaded and stored with the minimum. One line of JSON per case; exit status 1 if any case
// failed.
#include <cstring>
#include <string>

#include "case_stream.h"
#include "cuda_on_cpu.h"

namespace {

using cuda_on_cpu::Access;
using cuda_on_cpu::DeviceBuffer;

DeviceBuffer make_buffer(const char* name, std::size_t bytes, Access access, std::int64_t offset) {
    return DeviceBuffer(name, bytes, access, static_cast<std::size_t>(offset));
}

struct Case {
    explicit Case(const CaseHeader& h)
        : header(h),
          tokens(make_buffer("tokens", h.tokens_bytes(), Access::kRead, h.tokens_offset)),
          scores(make_buffer("scores", h.scores_bytes(), Access::kRead, h.scores_offset)),
          selected(make_buffer("selected", h.selected_bytes(), Access::kWrite, h.selected_offset)),
          indices(make_buffer("indices", h.indices_bytes(), Access::kWrite, h.indices_offset)) {
        read_or_exit(tokens.host(), tokens.size());
        read_or_exit(scores.host(), scores.size());
        expected_selected = read_bytes(selected.size());
        expected_indices = read_bytes(indices.size());
    }

    int run() const;
    std::string difference(int status) const;
    void print(const std::string& difference) const;

    CaseHeader header;
    DeviceBuffer tokens, scores, selected, indices;
    std::unique_ptr<unsigned char[]> expected_selected, expected_indices;
};

int Case::run() const {
    cuda_on_cpu::Device& device = cuda_on_cpu::device();
    device.multiprocessors = static_cast<int>(header.multiprocessors);
    device.schedule = static_cast<cuda_on_cpu::Schedule>(header.schedule);
    device.seed = static_cast<std::uint32_t>(header.seed);
    return tokfilter::token_select(
        header.arguments(tokens.device(), scores.device(), selected.device(), indices.device()), nullptr);
}

// Empty when status, results and memory traffic are as expected.
std::string Case::difference(int status) const {
    const cuda_on_cpu::LaunchRecord& launch = cuda_on_cpu::last_launch();
    if (!launch.report.empty()) return launch.report;
    if (status != 0) return "status " + std::to_string(status);
    if (std::memcmp(selected.host(), expected_selected.get(), selected.size()) != 0)
        return "selected differs";
    const auto moved = static_cast<std::int64_t>(selected.size());
    if (tokens.loaded() != moved) return "tokens: " + std::to_string(tokens.loaded()) + " bytes loaded";
    if (selected.stored() != moved) return "selected: " + std::to_string(selected.stored()) + " bytes stored";
    const std::int64_t blocks_per_image = launch.blocks / header.batch;
    if (scores.loaded() > blocks_per_image * static_cast<std::int64_t>(scores.size()))
        return "scores: " + std::to_string(scores.loaded()) + " bytes loaded";
    if (header.with_indices == 0) return indices.stored() == 0 ? "" : "indices were stored unasked";
    if (std::memcmp(indices.host(), expected_indices.get(), indices.size()) != 0) return "indices differ";
    return "";
}

void Case::print(const std::string& difference) const {
    const cuda_on_cpu::LaunchRecord& launch = cuda_on_cpu::last_launch();
    std::printf(
        "{\"blocks\": %lld, \"barriers\": %lld, \"tokens_loaded\": %lld, \"scores_loaded\": %lld, "
        "\"selected_stored\": %lld, \"indices_stored\": %lld, \"difference\": \"%s\"}\n",
        static_cast<long long>(launch.blocks), static_cast<long long>(launch.barriers),
        static_cast<long long>(tokens.loaded()), static_cast<long long>(scores.loaded()),
        static_cast<long long>(selected.stored()), static_cast<long long>(indices.stored()),
        difference.c_str());
}

}  // namespace

int main() {
    int failures = 0;
    for (CaseHeader header; read_header(header);) {
        const Case one(header);
        const std::string difference = one.difference(one.run());
        one.print(difference);
        failures += !difference.empty();
    }
    return failures == 0 ? 0 : 1;
}
