// An open engine: every batch and budget, host and device memory, streams, moves and closing.
#include <cuda_runtime_api.h>

#include "fake_model.hpp"
#include "tokfilter/tokfilter.h"

using testing::Directory;
using testing::HostCall;
using testing::images;
using testing::is_right;
using testing::pixels;
using tokfilter::Code;

namespace {

// Device memory of the fake CUDA.
template <class T>
T* on_device(const std::vector<T>& values) {
    void* memory = nullptr;
    REQUIRE(cudaMalloc(&memory, values.size() * sizeof(T)) == cudaSuccess);
    std::copy(values.begin(), values.end(), static_cast<T*>(memory));
    return static_cast<T*>(memory);
}

}  // namespace

TEST_CASE("info of an open engine") {
    Directory directory;
    const auto engine = directory.open();
    REQUIRE_MESSAGE(engine.ok(), engine.status().message());
    const auto info = engine->info();
    REQUIRE(info.ok());
    CHECK(info->plan == directory.file("model.plan").string());
    CHECK(info->batch.high == 4);
    CHECK(info->budget.low == 2);
    CHECK(info->budget.best == 6);
    CHECK(info->budget.high == 12);
    CHECK(info->has_indices);
    CHECK(info->class_names[2] == "cat");
}

TEST_CASE("every batch size at every budget; each call changes the shapes") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    for (std::int64_t round = 0; round < 2; ++round)
        for (std::int64_t tokens = 12; tokens >= 2; --tokens)
            for (std::int64_t batch = 1; batch <= 4; ++batch) {
                const auto output = engine->classify(images(batch), batch, tokens);
                REQUIRE_MESSAGE(output.ok(), output.status().message());
                CHECK(is_right(*output));
                CHECK(output->tokens == tokens);
                CHECK(output->timing.compute_ms >= 0);
            }
    const auto again = engine->classify(images(1), 1);
    REQUIRE(again.ok());
    CHECK(again->tokens == 6);
}

TEST_CASE("a plan that takes pixels, in host and in device memory") {
    for (const std::string form : {"uint8", "uint8-nhwc"}) {
        CAPTURE(form);
        Directory directory;
        directory.set("/model/input", '"' + form + '"');
        directory.set_plan("/input", '"' + form + '"');
        auto engine = directory.open();
        REQUIRE_MESSAGE(engine.ok(), engine.status().message());
        const auto to = engine->info()->preprocess;
        for (std::int64_t batch = 1; batch <= 4; ++batch)
            CHECK(is_right(*engine->classify_pixels(pixels(batch), batch, 7)));
        HostCall host(2, 6);
        const auto values = pixels(2);
        host.call.images = nullptr;
        host.call.pixels = on_device(values);
        host.call.shape = to.shape(2);
        host.call.logits = on_device(host.logits);
        host.call.indices = on_device(host.indices);
        REQUIRE(engine->enqueue(host.call).ok());
        REQUIRE(engine->close().ok());  // waits
        CHECK(is_right(host.call.logits, host.call.indices, 2, 6));
        CHECK(cudaFree(const_cast<std::uint8_t*>(host.call.pixels)) == cudaSuccess);
        CHECK(cudaFree(host.call.logits) == cudaSuccess);
        CHECK(cudaFree(host.call.indices) == cudaSuccess);
    }
}

TEST_CASE("floats for a plan of pixels, pixels for one of floats, and both") {
    for (const bool floats : {true, false}) {
        Directory directory;
        if (!floats) directory.set("/model/input", R"("uint8-nhwc")");
        if (!floats) directory.set_plan("/input", R"("uint8-nhwc")");
        auto engine = directory.open();
        REQUIRE_MESSAGE(engine.ok(), engine.status().message());
        const auto text = floats ? "takes normalised floats" : "normalises its input itself";
        const auto wrong = floats ? engine->classify_pixels(pixels(1), 1) : engine->classify(images(1), 1);
        CHECK_STATUS(wrong.status(), Code::argument, text);
        HostCall both(1, 6);
        const auto values = pixels(1);
        both.call.pixels = values.data();
        both.call.shape = engine->info()->preprocess.shape(1);
        CHECK_STATUS(engine->run(both.call), Code::argument, text);
        both.call.images = nullptr;
        both.call.pixels = nullptr;
        CHECK_STATUS(engine->run(both.call), Code::argument,
                     floats ? "memory for images" : "memory for pixels");
        if (floats) continue;
        both.call.pixels = values.data();
        both.call.shape = {1, 3, 8, 6};
        CHECK_STATUS(engine->run(both.call), Code::argument, "[batch, 8, 6, 3] uint8, got [1, 3, 8, 6]");
        CHECK_STATUS(engine->classify_pixels(pixels(2), 1).status(), Code::argument,
                     "expected [1, 8, 6, 3] uint8, got 288 values");
    }
}

TEST_CASE("a manifest and a plan that differ in how they take images") {
    Directory directory;
    directory.set("/model/input", R"("uint8")");
    CHECK_STATUS(directory.open().status(), Code::manifest, "images of shape [-1, 3, 8, 6] uint8",
                 "another type");
    directory.set("/model/input", R"("uint16")");
    CHECK_STATUS(directory.open().status(), Code::manifest,
                 "input must be float, uint8 or uint8-nhwc, got 'uint16'");
}

TEST_CASE("several profiles, none of which covers every shape") {
    Directory directory;
    directory.set_plan(
        "/profiles",
        R"([{"batch": [1, 1, 1], "budget": [2, 6, 12]}, {"batch": [2, 4, 4], "budget": [6, 6, 6]}])");
    auto engine = directory.open();
    REQUIRE(engine.ok());
    for (const auto& [batch, tokens] :
         std::vector<std::pair<int, int>>{{1, 12}, {4, 6}, {1, 6}, {3, 6}, {1, 2}}) {
        const auto output = engine->classify(images(batch), batch, tokens);
        REQUIRE(output.ok());
        CHECK(is_right(*output));
    }
    CHECK_STATUS(engine->classify(images(2), 2, 7).status(), Code::range,
                 "batches of 1 to 1 at 2 to 12 tokens", "batches of 2 to 4 at 6 to 6 tokens",
                 "a batch of 2 at 7 tokens");
    CHECK(is_right(*engine->classify(images(2), 2, 6)));
}

TEST_CASE("a model that gives an embedding") {
    Directory directory;
    directory.set("/model/output", R"({"name": "embedding", "shape": [5]})");
    directory.set("/model/class_names", "[]");
    CHECK_STATUS(directory.open().status(), Code::manifest,
                 "expects embedding of shape [-1, 5] float32, got none");
    directory.set_plan("/logits", R"("embedding")");
    auto engine = directory.open();
    REQUIRE_MESSAGE(engine.ok(), engine.status().message());
    CHECK(engine->info()->embeds);
    for (const std::int64_t batch : {1, 3, 4}) CHECK(is_right(*engine->classify(images(batch), batch, 4)));

    tokfilter_engine* handle = nullptr;
    tokfilter_info info{};
    info.struct_size = sizeof info;
    REQUIRE(tokfilter_engine_open(directory.path().c_str(), nullptr, &handle) == TOKFILTER_OK);
    REQUIRE(tokfilter_engine_info(handle, &info) == TOKFILTER_OK);
    CHECK(info.embeds == 1);
    CHECK(info.classes == 5);
    CHECK(tokfilter_engine_close(&handle) == TOKFILTER_OK);
}

TEST_CASE("a full model and a plan with a fixed budget") {
    Directory directory;
    directory.set_plan("/slots", "false");
    directory.set_plan("/indices", "false");
    directory.set("/files/0/role", R"("full")");
    tokfilter::Options options;
    options.role = tokfilter::Role::full;
    auto full = directory.open(options);
    REQUIRE(full.ok());
    const auto output = full->classify(images(3), 3);
    REQUIRE(output.ok());
    CHECK(output->tokens == 12);
    CHECK(output->indices.empty());
    CHECK(is_right(*output));
    CHECK_STATUS(full->classify(images(1), 1, 6).status(), Code::range,
                 "the budget of 12 of 12 tokens only, got 6");
    HostCall with_indices(1, 12);
    CHECK_STATUS(full->run(with_indices.call), Code::argument, "no output of kept indices");

    Directory fixed;
    fixed.set_plan("/slots", "false");
    fixed.set_plan("/tokens", "6");
    fixed.set("/files/0/budget", "6");
    fixed.set("/files/0/budget_range", "null");
    auto engine = fixed.open();
    REQUIRE(engine.ok());
    CHECK(is_right(*engine->classify(images(2), 2, 6)));
    CHECK_STATUS(engine->classify(images(2), 2, 5).status(), Code::range,
                 "the budget of 6 of 12 tokens only, got 5");
}

TEST_CASE(
    "device memory on the caller's streams: enqueue does not wait, and calls on different streams keep their "
    "order") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    cudaStream_t streams[2];
    for (auto& stream : streams)
        REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    float* input = on_device(images(4));
    float* logits[2] = {on_device(std::vector<float>(20, -1)), on_device(std::vector<float>(20, -1))};
    std::int32_t* indices = on_device(std::vector<std::int32_t>(48, -1));
    tokfilter::Call call;
    call.images = input;
    call.shape = {4, 3, 8, 6};
    call.tokens = 12;
    call.logits = logits[0];
    call.logits_room = 20;
    call.indices = indices;
    call.indices_room = 48;
    call.stream = streams[0];
    CHECK(engine->enqueue(call).ok());
    CHECK(logits[0][0] == -1);
    call.shape[0] = 3;
    call.tokens = 5;
    call.logits = logits[1];
    call.indices = nullptr;
    call.stream = streams[1];
    CHECK(engine->enqueue(call).ok());
    CHECK(cudaStreamSynchronize(streams[1]) == cudaSuccess);
    CHECK(is_right(logits[1], nullptr, 3, 5));
    CHECK_MESSAGE(is_right(logits[0], indices, 4, 12), "the second stream waits for the first");
    call.stream = nullptr;
    CHECK(engine->enqueue(call).ok());
    CHECK(is_right(*engine->classify(images(2), 2)));
    for (auto& stream : streams) CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    CHECK(engine->enqueue(call).ok());
    CHECK_MESSAGE(engine->close().ok(), "closing waits for what was enqueued");
    for (void* memory : {static_cast<void*>(input), static_cast<void*>(logits[0]),
                         static_cast<void*>(logits[1]), static_cast<void*>(indices)})
        CHECK(cudaFree(memory) == cudaSuccess);
}

TEST_CASE("the caller's current GPU is restored") {
    Directory directory;
    tokfilter::Options options;
    options.device = 1;
    auto engine = directory.open(options);
    REQUIRE(engine.ok());
    CHECK(engine->classify(images(1), 1).ok());
    int device = -1;
    CHECK(cudaGetDevice(&device) == cudaSuccess);
    CHECK(device == 0);
}

TEST_CASE("use after close and after a move") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    tokfilter::Engine other = *std::move(engine);
    CHECK(is_right(*other.classify(images(1), 1)));
    CHECK_STATUS(engine->classify(images(1), 1).status(), Code::closed, "moved from");
    CHECK_STATUS(engine->info().status(), Code::closed, "moved from");
    CHECK(engine->close().ok());
    *engine = std::move(other);
    CHECK(is_right(*engine->classify(images(2), 2)));
    CHECK(engine->close().ok());
    CHECK(engine->close().ok());
    HostCall host(1, 6);
    CHECK_STATUS(engine->run(host.call), Code::closed, "this engine is closed: open another");
    CHECK_STATUS(engine->enqueue(host.call), Code::closed, "closed");
    CHECK_STATUS(engine->info().status(), Code::closed, "closed");
}
