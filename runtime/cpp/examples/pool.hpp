// Thread pool with a bounded number of waiting connections.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace example {

/// cpp-httplib's own pool has an unbounded list of accepted connections. This one stops accepting while
/// `waiting` connections have no thread; further ones stay in the kernel's backlog.
class BoundedPool : public httplib::TaskQueue {
  public:
    BoundedPool(std::size_t threads, std::size_t waiting) : waiting_(waiting) {
        for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    }

    void enqueue(std::function<void()> connection) override {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return connections_.size() < waiting_; });
        connections_.push_back(std::move(connection));
        changed_.notify_all();
    }

    void shutdown() override {
        {
            const std::lock_guard lock(mutex_);
            ended_ = true;
            changed_.notify_all();
        }
        for (std::thread& thread : threads_) thread.join();
    }

  private:
    void work() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [&] { return ended_ || !connections_.empty(); });
            if (connections_.empty()) return;
            const auto connection = std::move(connections_.front());
            connections_.pop_front();
            changed_.notify_all();
            lock.unlock();
            connection();
            lock.lock();
        }
    }

    const std::size_t waiting_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> connections_;
    std::vector<std::thread> threads_;
    bool ended_ = false;
};

}  // namespace example
