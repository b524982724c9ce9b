// Checks of the runtime phase with data: groups of calls from a file; each group creates one plugin.
//
// The file is int64 numbers and raw tensors: "groups", then per group k (0: slots), prefix_tokens, order,
// type of tokens, type of scores (TensorRT's numbers), calls; per call batch, patches, channels, k, whether
// indices are requested, and the bytes of tokens, scores, selected and indices from the reference.
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using Bytes = std::vector<std::uint8_t>;

class Reader {
  public:
    explicit Reader(const char* path) : file_(path, std::ios::binary) {
        file_.exceptions(std::ios::failbit | std::ios::badbit);
    }
    std::int64_t number() {
        std::int64_t value = 0;
        file_.read(reinterpret_cast<char*>(&value), sizeof(value));
        return value;
    }
    Bytes bytes(std::int64_t count) {
        Bytes result(static_cast<std::size_t>(count));
        file_.read(reinterpret_cast<char*>(result.data()), count);
        return result;
    }

  private:
    std::ifstream file_;
};

std::int64_t width(DataType type) {
    return type == DataType::kFLOAT ? 4 : type == DataType::kINT8 || type == tokfilter::kFp8 ? 1 : 2;
}

struct Group {
    std::int64_t k, prefix, order;
    DataType tokens, scores;
};

// Life as an engine has it: built, written, read again, attached to a context; only the last one is left.
PluginPointer deployed(const Library& library, const Group& group) {
    const char* order = group.order == 0 ? "position" : "score";
    PluginPointer made = create(library, attributes(static_cast<std::int32_t>(group.k),
                                                    static_cast<std::int32_t>(group.prefix), order));
    PluginPointer network = clone(*made);
    const std::string id = id_of(*made);
    made.reset();
    check(id == id_of(*network), "a clone outlives its original with the same attributes");
    PluginPointer engine = reread(library, *network);
    network.reset();
    check(id == id_of(*engine), "an engine file brings the same plugin back");
    PluginPointer context = attached(*engine);
    check(context != nullptr && context != engine, "a context gets a plugin of its own");
    return context;
}

void run_call(Plugin& plugin, const Group& group, Reader& file, const std::string& name) {
    const std::int64_t batch = file.number();
    const std::int64_t patches = file.number();
    const std::int64_t channels = file.number();
    const std::int64_t k = file.number();
    const bool with_indices = file.number() != 0;
    const Bytes tokens = file.bytes(batch * (group.prefix + patches) * channels * width(group.tokens));
    const Bytes scores = file.bytes(batch * patches * width(group.scores));
    const Bytes selected = file.bytes(batch * (group.prefix + k) * channels * width(group.tokens));
    const Bytes indices = file.bytes(batch * k * 4);

    const Descs descs =
        describe({batch, group.prefix, patches, channels, k, group.k == 0}, group.tokens, group.scores);
    Bytes got_selected(selected.size(), 0xA5);
    Bytes got_indices(indices.size(), 0xA5);
    const void* inputs[] = {tokens.data(), scores.data(), nullptr};  // slots are not read
    void* outputs[] = {got_selected.data(), with_indices ? got_indices.data() : nullptr};
    check(enqueue(plugin, descs, inputs, outputs) == 0, name + ": enqueue");
    check(got_selected == selected, name + ": selected equals the reference");
    check(got_indices == (with_indices ? indices : Bytes(indices.size(), 0xA5)),
          name + ": so do the indices");
}

}  // namespace

std::int64_t run_cases(const Library& library, Logger& logger, const char* path) {
    Reader file(path);
    std::int64_t calls = 0;
    const std::int64_t groups = file.number();
    for (std::int64_t g = 0; g < groups; ++g) {
        Group group{};
        group.k = file.number();
        group.prefix = file.number();
        group.order = file.number();
        group.tokens = static_cast<DataType>(file.number());
        group.scores = static_cast<DataType>(file.number());
        const std::int64_t count = file.number();
        const PluginPointer plugin = deployed(library, group);
        for (std::int64_t c = 0; c < count; ++c, ++calls) {
            run_call(*plugin, group, file, "group " + std::to_string(g) + ", call " + std::to_string(c));
        }
    }
    const std::string last = logger.last();
    check(logger.silent(), "right calls log nothing, logged: " + last);
    return calls;
}

}  // namespace host
