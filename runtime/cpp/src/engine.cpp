#include "tokfilter/engine.hpp"

#include <atomic>
#include <optional>
#include <type_traits>
#include <utility>

#include "guard.hpp"
#include "opened.hpp"
#include "version.hpp"

namespace tokfilter {

struct Engine::State {
    const Info info;  ///< stays readable while a call runs
    std::atomic<bool> open{true};
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    std::optional<Opened> opened;

    explicit State(Opened&& content) : info(content.info), opened(std::move(content)) {}
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() { static_cast<void>(release()); }

    /// Wait for enqueued calls, then free. Returns the status of the wait.
    Status release() {
        if (!opened) return {};
        open = false;
        const CurrentGpu current(opened->gpu);
        Status status = wait(*opened);
        opened.reset();
        return status;
    }

    /// Run `body` unless another thread is in a call.
    template <class Body>
    Status alone(Body&& body) {
        if (busy.test_and_set(std::memory_order_acquire))
            return {
                Code::busy,
                "this engine is running now in another thread: open one engine per thread, or use a queue."};
        struct Leave {
            std::atomic_flag& flag;
            ~Leave() { flag.clear(std::memory_order_release); }
        } const leave{busy};
        return body();
    }
};

namespace {

Status closed() { return {Code::closed, "this engine is closed: open another."}; }
Status moved_from() {
    return {Code::closed, "this engine was moved from: use the one that it was moved to."};
}

}  // namespace

Engine::Engine(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Result<Engine> Engine::open(const std::string& directory, const Options& options) noexcept {
    return guarded([&]() -> Result<Engine> {
        auto opened = open_directory(directory, options);
        if (!opened.ok()) return opened.status();
        return Engine(std::make_unique<State>(*std::move(opened)));
    });
}

Result<Info> Engine::info() const noexcept {
    return guarded([&]() -> Result<Info> {
        if (!state_) return moved_from();
        if (!state_->open) return closed();
        return state_->info;
    });
}

Status Engine::run(const Call& call, Timing* timing) noexcept {
    return guarded([&]() -> Status {
        if (!state_) return moved_from();
        return state_->alone([&]() -> Status {
            if (!state_->opened) return closed();
            if (Status status = check_call(state_->info, call); !status.ok()) return status;
            const CurrentGpu current(state_->opened->gpu);
            return run_on_host(*state_->opened, call, timing);
        });
    });
}

Status Engine::enqueue(const Call& call) noexcept {
    return guarded([&]() -> Status {
        if (!state_) return moved_from();
        return state_->alone([&]() -> Status {
            if (!state_->opened) return closed();
            if (Status status = check_call(state_->info, call); !status.ok()) return status;
            const CurrentGpu current(state_->opened->gpu);
            return enqueue_on_device(*state_->opened, call);
        });
    });
}

template <class Value>
Result<Output> Engine::classify_values(const std::vector<Value>& images, std::int64_t batch,
                                       std::int64_t tokens) {
    const auto known = info();
    if (!known.ok()) return known.status();
    const auto shape = known->preprocess.shape(batch);
    const std::int64_t pixels = 3 * known->height * known->width;
    if (batch < 1 || images.size() % static_cast<std::size_t>(pixels) != 0 ||
        static_cast<std::int64_t>(images.size()) / pixels != batch)
        return Status(Code::argument,
                      text("images: expected [", batch, ", ", shape[1], ", ", shape[2], ", ", shape[3],
                           std::is_same_v<Value, float> ? "] float32, got " : "] uint8, got ", images.size(),
                           " values."));
    Output output;
    Call call;
    if constexpr (std::is_same_v<Value, float>)
        call.images = images.data();
    else
        call.pixels = images.data();
    call.shape = shape;
    call.tokens = tokens;
    output.batch = batch;
    output.classes = known->classes;
    output.tokens = tokens_of(*known, call);
    // Allocates for valid calls only; check_call returns the error for others.
    const auto rows = static_cast<std::size_t>(batch);
    output.logits.resize(rows * static_cast<std::size_t>(known->classes));
    call.logits = output.logits.data();
    call.logits_room = output.logits.size();
    if (known->has_indices && output.tokens >= 1 && output.tokens <= known->patches) {
        output.indices.resize(rows * static_cast<std::size_t>(output.tokens));
        call.indices = output.indices.data();
        call.indices_room = output.indices.size();
    }
    if (Status status = run(call, &output.timing); !status.ok()) return status;
    return output;
}

Result<Output> Engine::classify(const std::vector<float>& images, std::int64_t batch,
                                std::int64_t tokens) noexcept {
    return guarded([&] { return classify_values(images, batch, tokens); });
}

Result<Output> Engine::classify_pixels(const std::vector<std::uint8_t>& pixels, std::int64_t batch,
                                       std::int64_t tokens) noexcept {
    return guarded([&] { return classify_values(pixels, batch, tokens); });
}

Status Engine::close() noexcept {
    return guarded([&]() -> Status {
        if (!state_) return {};
        return state_->alone([&]() -> Status { return state_->release(); });
    });
}

Versions versions() noexcept {
    try {
        return {TOKFILTER_VERSION_TEXT, runtime_name(), version_text(header_version()),
                version_text(library_version()), misfit(header_version(), library_version(), runtime_name())};
    } catch (...) {
        return {};
    }
}

}  // namespace tokfilter
