// Two threads at one engine, two engines in two threads, and the queue that a server puts before one.
#include <atomic>
#include <thread>

#include "fake_run.hpp"
#include "queue.hpp"
#include "service.hpp"

using testing::Directory;
using testing::images;
using testing::is_right;
using tokfilter::Code;

TEST_CASE("a second thread at a running engine is refused, and the first is not disturbed") {
    Directory directory;
    directory.set_plan("/milliseconds", "300");
    auto engine = directory.open();
    REQUIRE(engine.ok());
    std::atomic<bool> started{false};
    tokfilter::Result<tokfilter::Output> slow = tokfilter::Status();
    std::thread first([&] {
        started = true;
        slow = engine->classify(images(2), 2);
    });
    tokfilter::Status second, closing;
    while (!started) std::this_thread::yield();
    for (int i = 0; i < 250 && second.ok(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        tokfilter::Call nothing;  // refused for its null pointers as long as the engine is free
        const tokfilter::Status status = engine->run(nothing);
        if (status.code() != Code::argument) second = status;
    }
    closing = engine->close();
    CHECK(engine->info().ok());
    first.join();
    CHECK_SAYS(second, Code::busy, "running now", "one engine per thread");
    CHECK_SAYS(closing, Code::busy, "running now");
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

TEST_CASE("a bounded queue refuses, keeps the order, and is emptied after it was closed") {
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

TEST_CASE("a service answers all that it accepted, in batches, and refuses the rest") {
    Directory directory;
    directory.set_plan("/milliseconds", "20");
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
    }
    CHECK(refused >= 40 - 5 - 2 * 4);
    CHECK(outcomes.size() >= 5);
    for (auto& outcome : outcomes) {
        const auto answer = outcome.get();
        REQUIRE(answer.ok());
        CHECK(answer->name == "eel");
    }
}

TEST_CASE("a plan that serves no small batch gets its rest filled") {
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

TEST_CASE("an engine that fails is an answer too") {
    Directory directory;
    directory.set_plan("/fail", R"("enqueue")");
    auto engine = directory.open();
    REQUIRE(engine.ok());
    auto info = *engine->info();
    example::Service service(*std::move(engine), info, 0, 5);
    CHECK_SAYS(service.submit(images(1))->get().status(), Code::engine, "could not enqueue");
    CHECK(service.failed == 1);
}
