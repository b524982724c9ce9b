// The C functions: null pointers, sizes of structs, last error; c_client.c calls them from C.
#include <stdexcept>

#include "fake_model.hpp"
#include "guard.hpp"
#include "tokfilter/tokfilter.h"

using testing::contains_all;
using testing::Directory;

TEST_CASE("exceptions become codes") {
    const auto code = [](auto thrown) {
        return tokfilter::guarded([&]() -> tokfilter::Status { throw thrown; }).code();
    };
    CHECK(code(std::bad_alloc()) == tokfilter::Code::memory);
    CHECK(code(std::out_of_range("a defect")) == tokfilter::Code::internal);
    CHECK(code(1) == tokfilter::Code::internal);
}

TEST_CASE("null pointers and closed handles are errors, not crashes") {
    tokfilter_engine* engine = nullptr;
    CHECK(tokfilter_engine_open(nullptr, nullptr, &engine) == TOKFILTER_ARGUMENT);
    CHECK(contains_all(tokfilter_last_error(), "expects a directory", "got NULL"));
    CHECK(tokfilter_engine_open("/nowhere", nullptr, nullptr) == TOKFILTER_ARGUMENT);
    CHECK(tokfilter_engine_open("/nowhere", nullptr, &engine) == TOKFILTER_MANIFEST);
    CHECK(contains_all(tokfilter_last_error(), "/nowhere/manifest.json"));
    CHECK(engine == nullptr);
    CHECK(tokfilter_engine_run(nullptr, nullptr, nullptr) == TOKFILTER_CLOSED);
    CHECK(contains_all(tokfilter_last_error(), "it was closed, or never opened"));
    CHECK(tokfilter_engine_enqueue(nullptr, nullptr) == TOKFILTER_CLOSED);
    CHECK(tokfilter_engine_info(nullptr, nullptr) == TOKFILTER_CLOSED);
    CHECK(tokfilter_engine_preprocess(nullptr, nullptr, 1, 1, nullptr, 0) == TOKFILTER_CLOSED);
    CHECK(tokfilter_engine_class_name(nullptr, 0) == nullptr);
    CHECK(tokfilter_engine_close(&engine) == TOKFILTER_OK);
    CHECK(tokfilter_engine_close(nullptr) == TOKFILTER_OK);
}

TEST_CASE("structs of another header version and too small buffers are refused") {
    Directory directory;
    directory.write();
    tokfilter_engine* engine = nullptr;
    tokfilter_options options{};
    CHECK(tokfilter_engine_open(directory.path().c_str(), &options, &engine) == TOKFILTER_ARGUMENT);
    CHECK(contains_all(tokfilter_last_error(), "tokfilter_options.struct_size expects", "got 0"));
    options.struct_size = sizeof options;
    options.precision = "bf16";
    CHECK(tokfilter_engine_open(directory.path().c_str(), &options, &engine) == TOKFILTER_MANIFEST);
    CHECK(contains_all(tokfilter_last_error(), "no filtered tensorrt model in bf16"));
    options.precision = nullptr;
    REQUIRE(tokfilter_engine_open(directory.path().c_str(), &options, &engine) == TOKFILTER_OK);

    tokfilter_info info{};
    CHECK(tokfilter_engine_info(engine, &info) == TOKFILTER_ARGUMENT);
    CHECK(tokfilter_engine_info(engine, nullptr) == TOKFILTER_ARGUMENT);
    tokfilter_call call{};
    CHECK(tokfilter_engine_run(engine, &call, nullptr) == TOKFILTER_ARGUMENT);
    CHECK(contains_all(tokfilter_last_error(), "tokfilter_call.struct_size expects"));
    call.struct_size = sizeof call;
    CHECK(tokfilter_engine_enqueue(engine, &call) == TOKFILTER_ARGUMENT);
    CHECK(contains_all(tokfilter_last_error(), "got a null pointer"));
    const std::uint8_t pixel[3] = {255, 255, 255};
    std::vector<float> input(Directory::kPixels);
    CHECK(tokfilter_engine_preprocess(engine, pixel, 1, 1, input.data(), input.size() - 1) ==
          TOKFILTER_ARGUMENT);
    CHECK(contains_all(tokfilter_last_error(), "input expects room for 144 floats, got 143"));
    CHECK(tokfilter_engine_preprocess(engine, pixel, 1, 1, input.data(), input.size()) == TOKFILTER_OK);
    CHECK(input == std::vector<float>(input.size(), 1.0F));
    CHECK(tokfilter_engine_class_name(engine, 5) == nullptr);
    CHECK(tokfilter_engine_class_name(engine, -1) == nullptr);
    CHECK(tokfilter_engine_close(&engine) == TOKFILTER_OK);
    CHECK(engine == nullptr);
}
