// Invalid calls, machines and files: the code and the message of each error.
#include <limits>

#include "fake_model.hpp"

using testing::Directory;
using testing::HostCall;
using testing::images;
using testing::is_right;
using testing::ScopedEnv;
using tokfilter::Code;

TEST_CASE("invalid arguments") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    const auto refused = [&](Code code, const char* words, auto&& change) {
        HostCall host(2, 6);
        change(host);
        const tokfilter::Status status = engine->run(host.call);
        CHECK_STATUS(status, code, words);
        CHECK(host.logits == std::vector<float>(10));
        const tokfilter::Status enqueued = engine->enqueue(host.call);
        if (std::string(words) != "images hold NaN") CHECK_STATUS(enqueued, code, words);
    };
    refused(Code::argument, "got a null pointer", [](HostCall& host) { host.call.images = nullptr; });
    refused(Code::argument, "got a null pointer", [](HostCall& host) { host.call.logits = nullptr; });
    refused(Code::argument, "images: expected [batch, 3, 8, 6] float32, got [2, 3, 6, 8]",
            [](HostCall& host) { host.call.shape = {2, 3, 6, 8}; });
    refused(Code::argument, "got [0, 3, 8, 6]", [](HostCall& host) { host.call.shape[0] = 0; });
    refused(Code::argument, "got [2, 1, 8, 6]", [](HostCall& host) { host.call.shape[1] = 1; });
    refused(Code::range, "batches of 1 to 4, got 5. Split", [](HostCall& host) { host.call.shape[0] = 5; });
    refused(Code::range, "got 9223372036854775807",
            [](HostCall& host) { host.call.shape[0] = std::numeric_limits<std::int64_t>::max(); });
    for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{13}, std::int64_t{-6}})
        refused(Code::range, "budgets from 2 to 12 of 12 tokens, got",
                [=](HostCall& host) { host.call.tokens = tokens; });
    refused(Code::argument, "logits of this call need room for 10 floats, got 9",
            [](HostCall& host) { host.call.logits_room = 9; });
    refused(Code::argument, "indices of this call need room for 12 numbers, got 11",
            [](HostCall& host) { host.call.indices_room = 11; });
    CHECK(engine->run(HostCall(2, 6).call).ok());
}

TEST_CASE("NaN and infinity in host memory") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    HostCall host(2, 6);
    host.input[200] = std::numeric_limits<float>::quiet_NaN();
    CHECK_STATUS(engine->run(host.call), Code::argument, "images hold NaN or infinity");
    host.input[200] = 0;
    CHECK(engine->run(host.call).ok());
}

TEST_CASE("vectors of the wrong size") {
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    CHECK_STATUS(engine->classify(images(2), 3).status(), Code::argument,
                 "images: expected [3, 3, 8, 6] float32, got 288 values");
    CHECK_STATUS(engine->classify({}, 0).status(), Code::argument, "got 0 values");
    CHECK_STATUS(engine->classify({}, -1).status(), Code::argument, "images: expected");
    CHECK_STATUS(engine->classify(images(5), 5).status(), Code::range, "batches of 1 to 4, got 5");
    CHECK_STATUS(engine->classify(images(1), 1, 99).status(), Code::range,
                 "budgets from 2 to 12 of 12 tokens, got 99");
}

TEST_CASE("no driver, no GPU, no such GPU") {
    Directory directory;
    const auto open = [&](const char* gpu) {
        const ScopedEnv environment("FAKE_GPU", gpu);
        return directory.open().status();
    };
    CHECK_STATUS(open("no-driver"), Code::no_gpu, "no NVIDIA driver", "libcuda.so.1", "--gpus all");
    CHECK_STATUS(open("old-driver"), Code::no_gpu, "the NVIDIA driver serves CUDA 11.4", "Update the driver");
    CHECK_STATUS(open("none"), Code::no_gpu, "no NVIDIA GPU", "CUDA_VISIBLE_DEVICES");
    CHECK_STATUS(open("broken"), Code::no_gpu, "does not start", "reboot");
    tokfilter::Options options;
    options.device = 2;
    CHECK_STATUS(directory.open(options).status(), Code::no_gpu, "GPUs 0 to 1 on this machine, got 2");
}

// What a real runtime gives then is no null pointer, and no object either.
TEST_CASE("a TensorRT that does not start is neither used nor deleted") {
    Directory directory;
    const ScopedEnv environment("FAKE_TENSORRT_FAILS", "1");
    const auto status = directory.open().status();
    CHECK_STATUS(status, Code::engine, "TensorRT does not start: createInferRuntime", "with error: 35");
    CHECK(status.message().find("catchCudaError") == std::string::npos);
}

TEST_CASE("a library of another major version is refused before it is called") {
    Directory directory;
    const ScopedEnv environment("FAKE_TENSORRT_VERSION", "10701");
    CHECK_STATUS(directory.open().status(), Code::version, "has loaded TensorRT 1.7.1",
                 "Build tokfilter again");
    CHECK(testing::contains_all(tokfilter::versions().misfit, "compiled with headers"));
    CHECK(tokfilter::versions().library == "1.7.1");
}

TEST_CASE("a plan for another machine") {
    Directory directory;
    directory.set("/files/0/target", R"({"gpu": "NVIDIA H100, 9.0"})");
    CHECK_STATUS(directory.open().status(), Code::version, "compute capability 9.0 (NVIDIA H100, 9.0)",
                 "Fake GPU, 8.7");
}

TEST_CASE("a plan of another TensorRT version is refused before TensorRT sees it") {
    const std::string here = tokfilter::versions().library;
    for (const char* there : {"8.5.2.2", "8.6.1.6", "10.3.0.26", "10.14.1.48", "11.4.0.106"}) {
        if (std::string(there).rfind(here, 0) == 0) continue;
        Directory directory;
        directory.set_plan("/fail", R"("deserialize: TensorRT was asked")");
        directory.set("/files/0/target", std::string(R"({"version": ")") + there + R"("})");
        CHECK_STATUS(directory.open().status(), Code::version,
                     std::string("the plan was built with TensorRT ") + there, "this machine has " + here,
                     "Build it again on this machine");
    }
}

TEST_CASE("errors of TensorRT: its message, the plan's target and a remedy") {
    Directory directory;
    directory.set("/files/0/target", R"({"gpu": "Thor"})");
    const auto refused = [&](const std::string& why) {
        directory.set_plan("/fail", '"' + why + '"');
        return directory.open().status();
    };
    CHECK_STATUS(
        refused(
            "deserialize: IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan "
            "file is generated on an incompatible device, expecting compute 8.9 got compute 8.6, please "
            "rebuild.)"),
        Code::version, "refuses", "incompatible device", "It was built for gpu Thor", "another GPU");
    CHECK_STATUS(
        refused("deserialize: IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization "
                "assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: "
                "Current Version: 237, Serialized Engine Version: 239)"),
        Code::version, "Serialized Engine Version: 239). It", "of another TensorRT version");
    CHECK_STATUS(refused("context"), Code::memory, "no execution context", "could not be allocated",
                 "memory full");
}

TEST_CASE("bytes that match the manifest but are not a plan") {
    Directory directory;
    directory.write();
    directory.put("model.plan", "noise", true);
    directory.put("manifest.json", directory.manifest(), false);
    CHECK_STATUS(tokfilter::Engine::open(directory.path()).status(), Code::version,
                 "header.magicTag == kEXPECTED_MAGIC_TAG failed", "an unknown target",
                 "The file is damaged, no plan, or a plan of another TensorRT");
}

TEST_CASE("a plan whose inputs and outputs differ from the manifest's") {
    const auto refused = [](const char* key, const char* value) {
        Directory directory;
        directory.set_plan(key, value);
        return directory.open().status();
    };
    CHECK_STATUS(refused("/classes", "6"), Code::manifest,
                 "expects logits of shape [-1, 5] float32, got [-1, 6]");
    CHECK_STATUS(refused("/size", "[6, 8]"), Code::manifest, "expects images of shape [-1, 3, 8, 6] float32");
    CHECK_STATUS(refused("/half", "true"), Code::manifest, "expects images", "or another type");
    CHECK_STATUS(refused("/logits", R"("output")"), Code::manifest,
                 "expects logits of shape [-1, 5] float32, got none");
}

TEST_CASE("after an error of TensorRT or CUDA in a call, the engine can be called again") {
    for (const auto& [fail, words] :
         std::vector<std::pair<const char*, const char*>>{{"profile", "could not choose a profile"},
                                                          {"shape", "could not infer the output shapes"},
                                                          {"enqueue", "could not enqueue the inference"}}) {
        Directory directory;
        directory.set_plan("/fail", std::string("\"") + fail + "\"");
        auto engine = directory.open();
        REQUIRE(engine.ok());
        CHECK_STATUS(engine->classify(images(1), 1).status(), Code::engine, words, "model.plan");
        CHECK_STATUS(engine->classify(images(1), 1).status(), Code::engine, words);
    }
    Directory directory;
    auto engine = directory.open();
    REQUIRE(engine.ok());
    const auto failing = [&](const char* function) {
        const ScopedEnv environment("FAKE_CUDA_FAILS", function);
        return engine->classify(images(4), 4).status();
    };
    CHECK_STATUS(failing("cudaMalloc"), Code::memory, "device memory", "Use a smaller batch");
    CHECK_STATUS(failing("cudaMemcpyAsync"), Code::engine,
                 "cudaMemcpyAsync failed: unspecified launch failure");
    CHECK_STATUS(failing("cudaStreamSynchronize"), Code::engine, "the inference failed",
                 "cudaErrorLaunchFailure");
    CHECK(is_right(*engine->classify(images(4), 4)));
    const ScopedEnv environment("FAKE_CUDA_FAILS", "cudaMalloc");
    CHECK_STATUS(directory.open().status(), Code::memory, "GPU's memory is full");
}
