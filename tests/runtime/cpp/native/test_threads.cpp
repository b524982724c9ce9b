// Two threads with one engine, one engine per thread, the bounded queue, and the service of the example
// server.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "fake_model.hpp"
#include "queue.hpp"
#include "service.hpp"

using testing::Directory;
using testing::images;
using testing::is_right;
using tokfilter::Code;

namespace {

// Inferences of the directory's plan end only after release().
class Hold {
  public:
    explicit Hold(Directory& directory) : path_(directory.file("released")) {
        directory.set_plan("/wait_for_file", '"' + path_.string() + '"');
    }
    void release() { std::ofstream(path_) << "released"; }

  private:
    std::filesystem::path path_;
};

}  // namespace

TEST_CASE("a call while another thread runs the engine returns Code::busy, and the first call completes") {
    Directory directory;
    Hold hold(directory);
    auto engine = directory.open();
    REQUIRE(engine.ok());
    tokfilter::Result<tokfilter::Output> slow = tokfilter::Status();
    std::thread first([&] {  // the calls below may come first
        do slow = engine->classify(images(2), 2);
        while (slow.status().code() == Code::busy);
    });
    tokfilter::Status second;
    while (second.code() != Code::busy) {
        tokfilter::Call invalid;  // Code::argument for its null pointers until the first call has begun
        second = engine->run(invalid);
        if (second.code() == Code::argument) std::this_thread::yield();
        REQUIRE((second.code() == Code::argument || second.code() == Code::busy));
    }
    const tokfilter::Status closing = engine->close();
    CHECK(engine->info().ok());
    hold.release();
    first.join();
    CHECK_STATUS(second, Code::busy, "running now", "one engine per thread");
    CHECK_STATUS(closing, Code::busy, "running now");
    REQUIRE(slow.ok());
    CHECK(is_right(*slow));
    CHECK(engine->close().ok());
}

TEST_CASE("one engine per thread") {
    Directory directory;
    directory.write();
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&] {
            auto engine = tokfilter::Engine::open(directory.path());
            for (int i = 0; engine.ok() && i < 20; ++i) {
                const auto output = engine->classify(images(1 + i % 4), 1 + i % 4, 2 + i % 11);
                right += output.ok() && is_right(*output);
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(right == 60);
}

TEST_CASE("a bounded queue refuses items when full or closed, keeps the order, and is drained after close") {
    example::BoundedQueue<int> queue(3);
    for (int item : {1, 2, 3}) CHECK(queue.push(item));
    int late = 4;
    CHECK(!queue.push(late));
    CHECK(queue.take(2) == std::vector{1, 2});
    CHECK(queue.push(late));
    queue.close();
    CHECK(!queue.push(late));
    CHECK(queue.take(9) == std::vector{3, 4});
    CHECK(queue.take(9).empty());
}

TEST_CASE("a service answers every request that it accepted, in batches, and refuses the others") {
    Directory directory;
    Hold hold(directory);
    auto engine = directory.open();
    REQUIRE(engine.ok());
    auto info = *engine->info();
    std::vector<std::future<example::Service::Outcome>> outcomes;
    int refused = 0;
    {
        example::Service service(*std::move(engine), info, 0, 5);
        for (int i = 0; i < 40; ++i) {
            auto outcome = service.submit(images(1));
            if (outcome)
                outcomes.push_back(*std::move(outcome));
            else
                ++refused;
        }
        CHECK(service.refused == static_cast<std::uint64_t>(refused));
        hold.release();
    }
    CHECK(outcomes.size() >= 5);      // the queue
    CHECK(outcomes.size() <= 5 + 4);  // and the one batch that was running
    for (auto& outcome : outcomes) {
        const auto answer = outcome.get();
        REQUIRE(answer.ok());
        CHECK(answer->name == "eel");
    }
}

TEST_CASE("a batch below the plan's minimum is padded") {
    Directory directory;
    directory.set_plan("/profiles", R"([{"batch": [3, 3, 4], "budget": [2, 6, 12]}])");
    directory.set("/files/0/batch_range", "[3, 3, 4]");
    auto engine = directory.open();
    REQUIRE(engine.ok());
    auto info = *engine->info();
    example::Service service(*std::move(engine), info, 6, 5);
    auto outcome = service.submit(images(1));
    REQUIRE(outcome);
    CHECK(outcome->get().ok());
}

TEST_CASE("a failure of the engine is returned to the caller") {
    Directory directory;
    directory.set_plan("/fail", R"("enqueue")");
    auto engine = directory.open();
    REQUIRE(engine.ok());
    auto info = *engine->info();
    example::Service service(*std::move(engine), info, 0, 5);
    CHECK_STATUS(service.submit(images(1))->get().status(), Code::engine, "could not enqueue");
    CHECK(service.failed == 1);
}
