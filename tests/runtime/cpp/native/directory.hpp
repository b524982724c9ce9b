// A temporary export directory for the fake TensorRT.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "tokfilter/engine.hpp"

namespace testing {

/// Sets an environment variable in its constructor and unsets it in its destructor.
class ScopedEnv {
  public:
    ScopedEnv(const char* name, const std::string& value);
    ~ScopedEnv();
    ScopedEnv(const ScopedEnv&) = delete;
    ScopedEnv& operator=(const ScopedEnv&) = delete;

  private:
    const char* name_;
};

/// A model of 8 x 6 pixels, 5 classes, 12 patches, and one elastic plan for batches 1 to 4 at 2 to 12 tokens.
/// Values are JSON, places are JSON pointers ("/files/0/budget").
class Directory {
  public:
    static constexpr std::int64_t kPixels = 3 * 8 * 6;

    Directory();
    ~Directory();
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;

    /// Change the manifest; "/files/0" is the plan's entry.
    void set(const std::string& place, const std::string& value);

    /// Change the plan (tests/tools/fake_tensorrt/runtime/plan.hpp).
    void set_plan(const std::string& place, const std::string& value);

    /// Add the library as the directory's plugin.
    void add_plugin(const std::string& library);

    /// Write plan and manifest, with the sizes and digests that belong to them; returns the path.
    std::string write();

    /// The manifest as it was written last, or with a change since.
    std::string manifest() const;
    std::string plan() const;

    /// Write `content` as a file, with or without making the manifest describe it.
    void put(const std::string& name, const std::string& content, bool described);

    std::string path() const;
    std::filesystem::path file(const std::string& name) const;
    tokfilter::Result<tokfilter::Engine> open(const tokfilter::Options& options = {});

  private:
    struct Content;
    std::unique_ptr<Content> content_;
};

/// Whether a message contains all of the given texts.
template <class... Texts>
bool contains_all(const std::string& message, const Texts&... texts) {
    return (... && (message.find(texts) != std::string::npos));
}

}  // namespace testing

// Checks the code of a Status and texts of its message; prints the message on failure.
#define CHECK_STATUS(status, expected, ...)                           \
    do {                                                              \
        const tokfilter::Status actual_ = (status);                   \
        INFO(actual_.message());                                      \
        CHECK(actual_.code() == (expected));                          \
        CHECK(testing::contains_all(actual_.message(), __VA_ARGS__)); \
    } while (false)
