// Runs cases from standard input on the CUDA-on-CPU layer and compares every bit with the expected output
// beside them.
//
// One case: 16 little-endian int64 (struct Header), then tokens, scores, expected selected, expected indices.
// One line of JSON per case on standard output; the exit status is 1 if any case failed. kernels/cases.py
// writes the stream.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "../cpu/cuda_on_cpu.h"
#include "../token_select.h"

namespace {

using cuda_on_cpu::Access;
using cuda_on_cpu::DeviceBuffer;

struct Header {
    std::int64_t batch, prefix, patches, channels, k;
    std::int64_t element_size, score_type, order, with_indices;
    std::int64_t multiprocessors, schedule, seed;
    std::int64_t tokens_offset, scores_offset, selected_offset,
        indices_offset;  // bytes that misalign each buffer
};
static_assert(sizeof(Header) == 16 * 8);

bool read_exactly(void* to, std::size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

std::int64_t bytes_of(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t size) {
    return a * b * c * size;
}

struct Case {
    Header header;
    std::unique_ptr<DeviceBuffer> tokens, scores, selected, indices;
    std::unique_ptr<unsigned char[]> expected_selected, expected_indices;

    bool read();
    int run() const;
    std::string difference(int status) const;
    void print(const std::string& difference) const;
};

bool Case::read() {
    if (!read_exactly(&header, sizeof(header))) return false;
    const Header& h = header;
    const std::int64_t score_size = h.score_type == 0 ? 4 : 2;
    const auto buffer = [](const char* name, std::int64_t bytes, Access access, std::int64_t offset) {
        return std::make_unique<DeviceBuffer>(name, static_cast<std::size_t>(bytes), access,
                                              static_cast<std::size_t>(offset));
    };
    tokens = buffer("tokens", bytes_of(h.batch, h.prefix + h.patches, h.channels, h.element_size),
                    Access::kRead, h.tokens_offset);
    scores = buffer("scores", bytes_of(h.batch, h.patches, 1, score_size), Access::kRead, h.scores_offset);
    selected = buffer("selected", bytes_of(h.batch, h.prefix + h.k, h.channels, h.element_size),
                      Access::kWrite, h.selected_offset);
    indices = buffer("indices", bytes_of(h.batch, h.k, 1, 4), Access::kWrite, h.indices_offset);
    expected_selected = std::make_unique<unsigned char[]>(selected->size());
    expected_indices = std::make_unique<unsigned char[]>(indices->size());
    return read_exactly(tokens->host(), tokens->size()) && read_exactly(scores->host(), scores->size()) &&
           read_exactly(expected_selected.get(), selected->size()) &&
           read_exactly(expected_indices.get(), indices->size());
}

int Case::run() const {
    const Header& h = header;
    cuda_on_cpu::Device& device = cuda_on_cpu::device();
    device.multiprocessors = static_cast<int>(h.multiprocessors);
    device.schedule = static_cast<cuda_on_cpu::Schedule>(h.schedule);
    device.seed = static_cast<std::uint32_t>(h.seed);
    tokfilter::TokenSelectArgs args{};
    args.tokens = tokens->device();
    args.scores = scores->device();
    args.selected = selected->device();
    args.indices = h.with_indices != 0 ? static_cast<std::int32_t*>(indices->device()) : nullptr;
    args.batch = h.batch;
    args.prefix = h.prefix;
    args.patches = h.patches;
    args.channels = h.channels;
    args.k = h.k;
    args.element_size = static_cast<std::int32_t>(h.element_size);
    args.score_type = static_cast<tokfilter::ScoreType>(h.score_type);
    args.order = static_cast<tokfilter::Order>(h.order);
    if (const char* const problem = tokfilter::token_select_problem(args))
        std::fprintf(stderr, "%s\n", problem);
    return tokfilter::token_select(args, nullptr);
}

// Empty when output, traffic and status are what the contract and the byte budget ask for.
std::string Case::difference(int status) const {
    const std::string& report = cuda_on_cpu::last_launch().report;
    if (!report.empty()) return report;
    if (status != 0) return "status " + std::to_string(status);
    if (std::memcmp(selected->host(), expected_selected.get(), selected->size()) != 0)
        return "selected differs";
    const auto moved = static_cast<std::int64_t>(selected->size());
    if (tokens->loaded() != moved) return "tokens: " + std::to_string(tokens->loaded()) + " bytes loaded";
    if (selected->stored() != moved)
        return "selected: " + std::to_string(selected->stored()) + " bytes stored";
    const std::int64_t blocks = cuda_on_cpu::last_launch().blocks;
    if (scores->loaded() > blocks / header.batch * static_cast<std::int64_t>(scores->size()))
        return "scores: " + std::to_string(scores->loaded()) + " bytes loaded";
    if (header.with_indices == 0) return indices->stored() == 0 ? "" : "indices were stored unasked";
    if (std::memcmp(indices->host(), expected_indices.get(), indices->size()) != 0) return "indices differ";
    return "";
}

void Case::print(const std::string& difference) const {
    const Header& h = header;
    const cuda_on_cpu::LaunchRecord& launch = cuda_on_cpu::last_launch();
    std::printf(
        "{\"batch\": %lld, \"prefix\": %lld, \"patches\": %lld, \"channels\": %lld, \"k\": %lld, "
        "\"element_size\": %lld, "
        "\"score_type\": %lld, \"order\": %lld, \"blocks\": %lld, \"barriers\": %lld, \"tokens_loaded\": "
        "%lld, "
        "\"scores_loaded\": %lld, \"selected_stored\": %lld, \"indices_stored\": %lld, \"difference\": "
        "\"%s\"}\n",
        static_cast<long long>(h.batch), static_cast<long long>(h.prefix), static_cast<long long>(h.patches),
        static_cast<long long>(h.channels), static_cast<long long>(h.k),
        static_cast<long long>(h.element_size), static_cast<long long>(h.score_type),
        static_cast<long long>(h.order), static_cast<long long>(launch.blocks),
        static_cast<long long>(launch.barriers), static_cast<long long>(tokens->loaded()),
        static_cast<long long>(scores->loaded()), static_cast<long long>(selected->stored()),
        static_cast<long long>(indices->stored()), difference.c_str());
}

}  // namespace

int main() {
    int failures = 0;
    for (;;) {
        Case one;
        if (!one.read()) break;
        const std::string difference = one.difference(one.run());
        one.print(difference);
        failures += !difference.empty();
    }
    return failures == 0 ? 0 : 1;
}
