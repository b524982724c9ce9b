// A stackful coroutine: one CUDA thread. Every switch is reported to AddressSanitizer and ThreadSanitizer,
// which then treat each CUDA thread as a host thread.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

class Fiber {
  public:
    Fiber();
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Resets the fiber, finished or not, to run entry(argument) next.
    void start(void (*entry)(void*), void* argument);

    // From the scheduler: runs until the fiber suspends itself or its entry returns.
    void resume();

    // From inside a fiber: back to the scheduler.
    void suspend();

  private:
    [[noreturn]] static void main_loop();
    void prepare_stack();
    void enter_fiber();
    void leave_fiber();

    unsigned char* stack_;
    std::size_t color_;
    void* own_context_ = nullptr;
    void* scheduler_context_ = nullptr;
    void (*entry_)(void*) = nullptr;
    void* argument_ = nullptr;
    bool finished_ = false;
    const void* scheduler_stack_ = nullptr;
    std::size_t scheduler_stack_size_ = 0;
    void* tsan_fiber_ = nullptr;
    void* tsan_scheduler_ = nullptr;
};

// Reports a barrier to ThreadSanitizer: all threads arrive at `token` before any leaves it.
void announce_arrival(void* token);
void announce_departure(void* token);

}  // namespace cuda_on_cpu
