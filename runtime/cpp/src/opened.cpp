#include "opened.hpp"

#include <filesystem>
#include <utility>
#include <vector>

#include "files.hpp"
#include "text.hpp"
#include "version.hpp"

namespace tokfilter {
namespace {

// Runs calls in order until the first one fails; returns its status.
template <class... Calls>
Status run_in_order(Calls&&... calls) {
    Status status;
    static_cast<void>((... && (status = calls(), status.ok())));
    return status;
}

Status mark(const OwnEvent& event, Stream stream) {
    return cuda_status(cudaEventRecord(event.get(), stream), "cudaEventRecord");
}

Status elapsed(const OwnEvent& from, const OwnEvent& to, float& milliseconds) {
    return cuda_status(cudaEventElapsedTime(&milliseconds, from.get(), to.get()), "cudaEventElapsedTime");
}

// The execution context is shared by all streams: wait for the previous inference.
Status follow(const Opened& opened, Stream stream) {
    if (!opened.pending) return {};
    return cuda_status(cudaStreamWaitEvent(stream, opened.last.get(), 0), "cudaStreamWaitEvent");
}

Status infer(Opened& opened, const Bindings& bindings, const Call& call, Stream stream) {
    const std::int64_t tokens = tokens_of(opened.info, call);
    if (Status status = opened.plan.enqueue(bindings, opened.info, call.shape[0], tokens, stream);
        !status.ok())
        return status;
    opened.pending = true;
    return mark(opened.last, stream);
}

Stream stream_of(const Opened& opened, const Call& call) {
    return call.stream != nullptr ? call.stream : opened.stream.get();
}

template <class T>
T* memory(const Buffer& buffer) {
    return static_cast<T*>(buffer.data());
}

const void* images_of(const Call& call) {
    return call.images != nullptr ? call.images : static_cast<const void*>(call.pixels);
}

std::size_t count(std::int64_t a, std::int64_t b, std::size_t size = 1) {
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * size;
}

// The plugin libraries for the plan: all listed ones if its target does not name one.
Result<std::vector<Library>> checked_plugins(const std::filesystem::path& directory, const Manifest& manifest,
                                             const Entry& plan) {
    std::vector<Library> plugins;
    const auto stated = plan.target.find("plugin");
    const bool named = stated != plan.target.end();
    const std::string name = named ? stated->second : "";
    // TensorRT-RTX loads no plugin libraries.
    if (plan.runtime != "tensorrt" || name == "null" || name == "serialized") return plugins;
    for (const Entry& entry : manifest.files) {
        if (entry.role != "plugin" || (named && entry.path != name)) continue;
        const auto path = checked_library(directory, entry);
        if (!path.ok()) return path.status();
        plugins.push_back({(directory / entry.path).string(), *path});
    }
    if (named && plugins.empty())
        return Status(Code::plugin, text(plan.path, " needs the plugin library ", name,
                                         ", which manifest.json does not list. Export again."));
    return plugins;
}

Info info_of(const Manifest& manifest, const Entry& entry, const std::string& path, const Plan& plan) {
    const Card& card = manifest.model;
    Info info;
    info.plan = path;
    info.height = card.preprocess.height;
    info.width = card.preprocess.width;
    info.classes = card.classes;
    info.embeds = card.embeds;
    info.patches = card.num_patches;
    info.batch = batches_of(entry, plan.profiles());
    info.budget = budgets_of(manifest, entry, plan.profiles());
    info.has_indices = plan.has_indices();
    info.class_names = card.class_names;
    info.preprocess = card.preprocess;
    return info;
}

Result<Opened> with_memory(Info info, int gpu, Plan plan) {
    Opened opened{std::move(info), gpu, {}, {}, {}, false, {}, {}, {}, {}, std::move(plan)};
    auto stream = new_stream();
    if (!stream.ok()) return stream.status();
    opened.stream = *std::move(stream);
    for (OwnEvent* event :
         {&opened.marks[0], &opened.marks[1], &opened.marks[2], &opened.marks[3], &opened.last}) {
        auto made = new_event();
        if (!made.ok()) return made.status();
        *event = *std::move(made);
    }
    const std::int64_t most = opened.info.budget.high;
    const Status status = run_in_order(
        [&] { return opened.slots.reserve(count(1, most, sizeof(std::int32_t))); },
        [&] { return opened.indices.reserve(count(opened.info.batch.high, most, sizeof(std::int32_t))); });
    if (!status.ok()) return status;
    return opened;
}

}  // namespace

Result<Opened> open_directory(const std::string& name, const Options& options) {
    const std::filesystem::path directory(name);
    const auto manifest = load_manifest(directory);
    if (!manifest.ok()) return manifest.status();
    const auto entry = entry_for(*manifest, options, runtime_name());
    if (!entry.ok()) return entry.status();
    const auto bytes = checked_bytes(directory, *entry);
    if (!bytes.ok()) return bytes.status();
    const auto plugins = checked_plugins(directory, *manifest, *entry);
    if (!plugins.ok()) return plugins.status();
    const auto gpu = gpu_of(options.device);
    if (!gpu.ok()) return gpu.status();
    // Must precede the first call of a method of TensorRT.
    if (const auto message = misfit(header_version(), library_version(), runtime_name()); !message.empty())
        return Status(Code::version, message);
    const Machine machine{runtime_name(), version_text(library_version()), gpu->name, gpu->capability};
    if (const Status status = check_target(entry->target, machine); !status.ok()) return status;
    const CurrentGpu current(gpu->number);
    const std::string path = (directory / entry->path).string();
    auto plan = Plan::load(*bytes, path, *entry, *plugins);
    if (!plan.ok()) return plan.status();
    if (const Status status = plan->check(manifest->model); !status.ok()) return status;
    Info info = info_of(*manifest, *entry, path, *plan);
    return with_memory(std::move(info), gpu->number, *std::move(plan));
}

Status run_on_host(Opened& opened, const Call& call, Timing* timing) {
    const Stream stream = stream_of(opened, call);
    const std::int64_t batch = call.shape[0];
    const std::size_t values = count(batch, 3 * opened.info.height * opened.info.width);
    const bool floats = opened.info.preprocess.form == InputForm::floats;
    const std::size_t images = values * (floats ? sizeof(float) : sizeof(std::uint8_t));
    const std::size_t logits = count(batch, opened.info.classes, sizeof(float));
    const std::size_t indices = count(batch, tokens_of(opened.info, call), sizeof(std::int32_t));
    if (Status status = run_in_order([&] { return floats ? check_finite(call.images, values) : Status(); },
                                     [&] { return opened.images.reserve(images); },
                                     [&] { return opened.logits.reserve(logits); });
        !status.ok())
        return status;
    const auto to_device = [&] {
        return cuda_status(
            cudaMemcpyAsync(opened.images.data(), images_of(call), images, cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
    };
    const auto to_host = [&](void* to, const Buffer& from, std::size_t bytes) {
        if (to == nullptr) return Status();
        return cuda_status(cudaMemcpyAsync(to, from.data(), bytes, cudaMemcpyDeviceToHost, stream),
                           "cudaMemcpyAsync");
    };
    const Bindings bindings{opened.images.data(), memory<std::int32_t>(opened.slots),
                            memory<float>(opened.logits), memory<std::int32_t>(opened.indices)};
    const auto& marks = opened.marks;
    Status status = run_in_order(
        [&] { return follow(opened, stream); }, [&] { return mark(marks[0], stream); }, to_device,
        [&] { return mark(marks[1], stream); }, [&] { return infer(opened, bindings, call, stream); },
        [&] { return mark(marks[2], stream); }, [&] { return to_host(call.logits, opened.logits, logits); },
        [&] { return to_host(call.indices, opened.indices, indices); },
        [&] { return mark(marks[3], stream); });
    const Status done = cuda_status(cudaStreamSynchronize(stream), "the inference");
    if (!status.ok() || !done.ok()) return status.ok() ? done : status;
    if (timing == nullptr) return {};
    return run_in_order([&] { return elapsed(marks[0], marks[1], timing->h2d_ms); },
                        [&] { return elapsed(marks[1], marks[2], timing->compute_ms); },
                        [&] { return elapsed(marks[2], marks[3], timing->d2h_ms); });
}

Status enqueue_on_device(Opened& opened, const Call& call) {
    const Stream stream = stream_of(opened, call);
    // The plan always writes indices; use our own buffer if the caller passes none.
    const Bindings bindings{images_of(call), memory<std::int32_t>(opened.slots), call.logits,
                            call.indices != nullptr ? call.indices : memory<std::int32_t>(opened.indices)};
    return run_in_order([&] { return follow(opened, stream); },
                        [&] { return infer(opened, bindings, call, stream); });
}

Status wait(Opened& opened) {
    if (!opened.pending) return {};
    opened.pending = false;
    return cuda_status(cudaEventSynchronize(opened.last.get()), "the inference");
}

}  // namespace tokfilter
