// Bounded queue and concurrency limit of the server.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace example {

/// A thread-safe queue with a capacity; after close it refuses new items and can be drained.
template <class Item>
class BoundedQueue {
  public:
    explicit BoundedQueue(std::size_t limit) : limit_(limit) {}

    /// False when the queue is full or closed; the item is unchanged then.
    bool push(Item& item) {
        const std::lock_guard lock(mutex_);
        if (closed_ || items_.size() >= limit_) return false;
        items_.push_back(std::move(item));
        filled_.notify_one();
        return true;
    }

    /// Up to `most` items, waiting for the first; none once the queue is closed and empty.
    std::vector<Item> take(std::size_t most) {
        std::unique_lock lock(mutex_);
        filled_.wait(lock, [&] { return closed_ || !items_.empty(); });
        std::vector<Item> taken;
        for (; !items_.empty() && taken.size() < most; items_.pop_front())
            taken.push_back(std::move(items_.front()));
        return taken;
    }

    /// Refuse new items.
    void close() {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        filled_.notify_all();
    }

    std::size_t size() const {
        const std::lock_guard lock(mutex_);
        return items_.size();
    }

  private:
    const std::size_t limit_;
    mutable std::mutex mutex_;
    std::condition_variable filled_;
    std::deque<Item> items_;
    bool closed_ = false;
};

/// A counting semaphore (std::counting_semaphore is C++20).
class Gate {
  public:
    explicit Gate(std::size_t places) : places_(places) {}

    class Pass {
      public:
        explicit Pass(Gate& gate) : gate_(gate) {
            std::unique_lock lock(gate_.mutex_);
            gate_.freed_.wait(lock, [&] { return gate_.places_ > 0; });
            --gate_.places_;
        }
        ~Pass() {
            const std::lock_guard lock(gate_.mutex_);
            ++gate_.places_;
            gate_.freed_.notify_one();
        }
        Pass(const Pass&) = delete;
        Pass& operator=(const Pass&) = delete;

      private:
        Gate& gate_;
    };

  private:
    std::mutex mutex_;
    std::condition_variable freed_;
    std::size_t places_;
};

}  // namespace example
