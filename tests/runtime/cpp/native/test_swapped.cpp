// Files exchanged by another thread while engines open: what was hashed is what is loaded.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "directory.hpp"
#include "files.hpp"
#include "plugins.hpp"

using testing::Directory;
using tokfilter::Code;

namespace {

constexpr int kOpens = 200;

std::string content_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Exchanges a file for another and back, by rename and in place, until it is destroyed.
class Swapper {
  public:
    Swapper(std::filesystem::path path, std::string good, std::string evil)
        : thread_([this, path = std::move(path), good = std::move(good), evil = std::move(evil)] {
              const auto other = std::filesystem::path(path).concat(".other");
              while (!stop_) {
                  for (const auto* content : {&evil, &good}) {
                      std::ofstream(other, std::ios::binary) << *content;
                      std::filesystem::rename(other, path);
                  }
                  for (const auto* content : {&evil, &good})
                      std::fstream(path, std::ios::binary | std::ios::in | std::ios::out) << *content;
              }
              std::ofstream(path, std::ios::binary) << good;
          }) {}
    ~Swapper() {
        stop_ = true;
        thread_.join();
    }
    Swapper(const Swapper&) = delete;
    Swapper& operator=(const Swapper&) = delete;

  private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

// Opens many times; every failure is that the bytes have changed.
void open_many(const Directory& directory) {
    for (int i = 0; i < kOpens; ++i) {
        const auto engine = tokfilter::Engine::open(directory.path());
        INFO(engine.status().message());
        CHECK((engine.ok() || engine.status().code() == Code::changed_file));
        CHECK(getenv("TOKFILTER_EVIL") == nullptr);
    }
}

}  // namespace

TEST_CASE("a plan that another thread exchanges") {
    fake::forget_plugins();
    Directory directory, other;
    other.set_plan("/classes", "7");  // would be refused as a plan of another model
    const std::string good = directory.plan(), evil = other.plan();
    REQUIRE(good.size() == evil.size());
    directory.write();
    {
        const Swapper swapper(directory.file("model.plan"), good, evil);
        open_many(directory);
    }
    REQUIRE(tokfilter::Engine::open(directory.path()).ok());
}

TEST_CASE("a plugin library that another thread exchanges: its code never runs") {
    fake::forget_plugins();
    unsetenv("TOKFILTER_EVIL");
    Directory directory;
    directory.set_plan("/plugin", "true");
    directory.add_plugin(FAKE_PLUGIN);
    directory.write();
    const auto path = directory.file("libplugin.so");
    const std::string good = content_of(path);
    std::string evil = content_of(EVIL_LIBRARY);
    REQUIRE(!good.empty());
    REQUIRE(!evil.empty());
    evil.resize(std::max(evil.size(), good.size()));  // a library may end in zeros
    {
        const Swapper swapper(path, good, evil);
        open_many(directory);
    }
    REQUIRE(tokfilter::Engine::open(directory.path()).ok());
    CHECK(getenv("TOKFILTER_EVIL") == nullptr);
}
