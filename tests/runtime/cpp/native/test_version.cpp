// Compatibility of headers, library, plan and GPU, and the remedies in the messages.
#include <doctest/doctest.h>

#include "directory.hpp"
#include "version.hpp"

using testing::contains_all;
using tokfilter::Code;
using tokfilter::Machine;

TEST_CASE("a library fits headers of its own major version and of the same or an older minor version") {
    CHECK(tokfilter::misfit(101401, 101401, "tensorrt").empty());
    CHECK(tokfilter::misfit(101401, 101400, "tensorrt").empty());  // a patch release changes no interface
    CHECK(tokfilter::misfit(100300, 101401, "tensorrt").empty());
    CHECK(contains_all(tokfilter::misfit(101401, 100300, "tensorrt"), "headers of version 10.14.1",
                       "TensorRT 10.3.0", "Build tokfilter again"));
    CHECK(tokfilter::misfit(8502, 8601, "tensorrt").empty());
    CHECK(contains_all(tokfilter::misfit(8601, 8502, "tensorrt"), "headers of version 8.6.1",
                       "TensorRT 8.5.2"));
    CHECK(contains_all(tokfilter::misfit(8601, 101401, "tensorrt"), "headers of version 8.6.1",
                       "TensorRT 10.14.1"));
    CHECK(contains_all(tokfilter::misfit(101401, 8601, "tensorrt"), "has loaded TensorRT 8.6.1"));
    CHECK(contains_all(tokfilter::misfit(8601, 9300, "tensorrt"), "has loaded TensorRT 9.3.0"));
    CHECK(contains_all(tokfilter::misfit(101401, 110000, "tensorrt"), "has loaded TensorRT 11.0.0"));
    CHECK(contains_all(tokfilter::misfit(101401, 10701, "tensorrt-rtx"), "has loaded TensorRT-RTX 1.7.1"));
}

TEST_CASE("the version in TensorRT's number: thousands up to 9, ten thousands later and in TensorRT-RTX") {
    for (const auto& [number, version] : std::vector<std::pair<int, const char*>>{{8502, "8.5.2"},
                                                                                  {8600, "8.6.0"},
                                                                                  {9300, "9.3.0"},
                                                                                  {10701, "1.7.1"},
                                                                                  {100300, "10.3.0"},
                                                                                  {101401, "10.14.1"},
                                                                                  {110400, "11.4.0"}})
        CHECK(tokfilter::version_text(number) == version);
}

TEST_CASE("a version-compatible plan runs in later versions, and from 8 in 10 and from 10 in 11") {
    const auto runs = [](const char* there, const char* here) {
        const Machine machine{"tensorrt", here, "Orin", "8.7"};
        return tokfilter::check_target({{"version", there}, {"version_compatible", "true"}}, machine).ok();
    };
    CHECK(runs("8.6.1.6", "8.6.2"));
    CHECK(runs("8.6.1.6", "10.3.0"));
    CHECK(runs("10.3.0.26", "10.14.1"));
    CHECK(runs("10.14.1", "11.0.0"));
    CHECK_FALSE(runs("8.6.1.6", "11.4.0"));
    CHECK_FALSE(runs("8.6.1.6", "8.5.2"));
    CHECK_FALSE(runs("10.3.0", "8.6.1"));
    CHECK_FALSE(runs("11.0.0", "10.14.1"));
    CHECK_FALSE(runs("10.3.0", "1.7.1"));
}

TEST_CASE("a plan for another version or GPU is refused before TensorRT deserialises it") {
    const Machine orin{"tensorrt", "10.3.0", "Orin", "8.7"};
    const auto check = [&](const tokfilter::Target& target) { return tokfilter::check_target(target, orin); };
    CHECK(check({}).ok());
    CHECK(check({{"version", "10.3.0.30"}, {"gpu", "Orin, 8.7"}, {"hardware", "none"}}).ok());
    CHECK(check({{"version", "10.3.0"}, {"gpu", "null"}}).ok());
    CHECK_STATUS(check({{"version", "8.6.1.6"}}), Code::version, "built with TensorRT 8.6.1.6",
                 "this machine has 10.3.0");
    CHECK_STATUS(check({{"version", "10.14.1.48"}}), Code::version, "built with TensorRT 10.14.1.48",
                 "this machine has 10.3.0", "tokfilter engine");
    CHECK_STATUS(check({{"version", "10.2.9"}, {"version_compatible", "false"}}), Code::version, "10.2.9");
    CHECK(check({{"version", "10.2.9"}, {"version_compatible", "true"}}).ok());
    CHECK_STATUS(check({{"version", "10.14.0"}, {"version_compatible", "true"}}), Code::version, "10.14.0");
    CHECK_STATUS(check({{"gpu", "NVIDIA H100, 9.0"}}), Code::version,
                 "compute capability 9.0 (NVIDIA H100, 9.0)", "this is Orin, 8.7");
    CHECK(check({{"gpu", "NVIDIA A100, 8.0"}, {"hardware", "ampere+"}}).ok());
    CHECK(check({{"compute_capabilities", "all"}}).ok());
    CHECK(check({{"compute_capabilities", R"(["SM86","SM87"])"}}).ok());
    CHECK_STATUS(check({{"compute_capabilities", R"(["SM86","SM120"])"}}), Code::version,
                 "GPUs of [\"SM86\",\"SM120\"]", "this is Orin, SM87");
}

// Parts of lines that real libraries printed: tests/trt/test_remedies.py looks them up in what is recorded.
TEST_CASE("each known message of TensorRT has a remedy") {
    const auto helps = [](const char* line, const char* with) {
        return contains_all(tokfilter::remedy(line), with);
    };
    CHECK(helps("Cannot find plugin: TokenSelecttokfilter, version: 1", "needs tokfilter's plugin"));
    CHECK(helps("corresponding IPluginCreator not found in Plugin Registry", "needs tokfilter's plugin"));
    CHECK(helps("Serialization assertion plan.header.size == blobSize failed", "The file is damaged"));
    CHECK(helps("Assertion bufferSize >= minBufferSize failed", "The file is damaged"));
    CHECK(helps("Cannot deserialize with an empty memory buffer", "The file is damaged"));
    CHECK(helps("Serialization assertion e.offset >= cursor failed", "The file is damaged"));
    CHECK(helps("failed.Magic tag does not match", "The file is damaged"));
    CHECK(helps("CUDA driver version is insufficient for CUDA runtime version", "Install the NVIDIA driver"));
    CHECK(helps("failed.Version tag does not match", "another TensorRT version"));
    CHECK(helps("is not compatible with this version of TensorRT, expecting", "another TensorRT version"));
    CHECK(helps("generated on an incompatible device, expecting compute 8.9", "another GPU"));
    CHECK(helps("Error Code 1: Cuda Runtime (out of memory)", "Free device memory"));
    CHECK(helps("Error Code 2: OutOfMemory (no further information)", "Free device memory"));
    CHECK(contains_all(tokfilter::remedy("gibberish"), "Build it again on this machine: `tokfilter engine`"));
}
