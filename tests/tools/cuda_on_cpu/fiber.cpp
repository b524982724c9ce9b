#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

// Weak: defined only in programs built with the respective sanitizer.
// Interface: compiler-rt, include/sanitizer/{common_interface_defs,asan_interface,tsan_interface}.h.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                          std::size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                           std::size_t* size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* begin, std::size_t size);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* token);
__attribute__((weak)) void __tsan_release(void* token);

// Saves the callee-saved registers on the current stack, stores its pointer in *save, continues on the stack
// `load`.
void cuda_on_cpu_switch(void** save, void* load);
}

#if defined(__x86_64__)
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
.section .note.GNU-stack, "", @progbits
.text
)");
constexpr std::size_t kSavedWords = 7, kReturnWord = 6;
constexpr std::size_t kTopWords =
    3;  // a function starts 8 bytes past a 16-byte boundary: its call pushed a word
#elif defined(__aarch64__)
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
constexpr std::size_t kSavedWords = 20, kReturnWord = 11;
constexpr std::size_t kTopWords = 2;
#else
#error \
    "CUDA on CPU: write cuda_on_cpu_switch for this processor (callee-saved registers and the stack pointer)"
#endif

namespace cuda_on_cpu {
namespace {

constexpr std::size_t kStackBytes =
    256 * 1024;  // large enough for a sanitizer's report; pages are allocated on first use
constexpr std::size_t kGuardBytes = 64 * 1024;  // a multiple of every page size in use
constexpr std::size_t kColors = 61, kColorBytes = 320;
constexpr unsigned kTsanNoSync = 1;  // a switch is no synchronisation between CUDA threads; barriers are

thread_local Fiber* starting = nullptr;  // hands `this` to main_loop on its first run

}  // namespace

Fiber::Fiber() {
    static std::size_t made = 0;
    // Different offsets within a page avoid cache conflicts between stacks.
    color_ = made++ % kColors * kColorBytes;
    void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuardBytes, PROT_NONE);
    stack_ = static_cast<unsigned char*>(memory) + kGuardBytes;
}

Fiber::~Fiber() {
    if (tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack_, kStackBytes);
    munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::start(void (*entry)(void*), void* argument) {
    entry_ = entry;
    argument_ = argument;
    if (!finished_) prepare_stack();  // a finished one waits at the top of main_loop
    finished_ = false;
}

void Fiber::prepare_stack() {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack_, kStackBytes);
    if (tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
    if (__tsan_create_fiber) tsan_fiber_ = __tsan_create_fiber(0);
    auto* const top = reinterpret_cast<std::uintptr_t*>(stack_ + kStackBytes - color_) - kTopWords;
    auto* const context = top - kSavedWords;
    context[kReturnWord] = reinterpret_cast<std::uintptr_t>(&Fiber::main_loop);
    own_context_ = context;
}

void Fiber::main_loop() {
    Fiber* const self = starting;
    self->enter_fiber();
    for (;;) {
        self->entry_(self->argument_);
        self->finished_ = true;
        self->suspend();
    }
}

void Fiber::enter_fiber() {
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_size_);
}

void Fiber::leave_fiber() {
    if (tsan_scheduler_ != nullptr) __tsan_switch_to_fiber(tsan_scheduler_, kTsanNoSync);
    cuda_on_cpu_switch(&own_context_, scheduler_context_);
}

void Fiber::resume() {
    starting = this;
    void* fake_stack = nullptr;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
    if (tsan_fiber_ != nullptr) {
        tsan_scheduler_ = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(tsan_fiber_, kTsanNoSync);
    }
    cuda_on_cpu_switch(&scheduler_context_, own_context_);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void Fiber::suspend() {
    void* fake_stack = nullptr;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack_, scheduler_stack_size_);
    leave_fiber();
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_size_);
}

void announce_arrival(void* token) {
    if (__tsan_release) __tsan_release(token);
}

void announce_departure(void* token) {
    if (__tsan_acquire) __tsan_acquire(token);
}

}  // namespace cuda_on_cpu
