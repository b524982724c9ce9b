// One engine behind a bounded queue.
#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "answer.hpp"
#include "input.hpp"
#include "queue.hpp"

namespace example {

/// Classifies for many threads with one engine in a worker thread. Waiting images run as one batch, up to the
/// plan's largest; an image never waits for a fuller batch.
class Service {
  public:
    /// tokens: budget of every call; 0: the engine's default. limit: capacity of the queue.
    Service(tokfilter::Engine engine, tokfilter::Info info, std::int64_t tokens, std::size_t limit);

    /// Answers all accepted images, then stops.
    ~Service();
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    using Outcome = tokfilter::Result<Answer>;

    /// input: one image. None when the queue is full.
    std::optional<std::future<Outcome>> submit(Input input);

    const tokfilter::Info& info() const { return info_; }
    std::size_t waiting() const { return queue_.size(); }

    std::atomic<std::uint64_t> served{0};
    std::atomic<std::uint64_t> refused{0};
    std::atomic<std::uint64_t> failed{0};

  private:
    struct Job {
        Input input;
        std::promise<Outcome> outcome;
    };

    void work();
    void run(std::vector<Job>& jobs);

    tokfilter::Engine engine_;
    const tokfilter::Info info_;
    const std::int64_t tokens_;
    BoundedQueue<Job> queue_;
    std::thread worker_;  // last member: it uses the others
};

}  // namespace example
