#include "shared.h"

#include <algorithm>

extern "C" __attribute__((weak)) void __asan_poison_memory_region(const volatile void* begin,
                                                                  std::size_t size);
extern "C" __attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* begin,
                                                                    std::size_t size);

thread_local unsigned char dynamic_shared[cuda_on_cpu::kMaxShared];

namespace cuda_on_cpu {

void fill_dynamic_shared(std::size_t bytes) {
    constexpr unsigned char kGarbage = 0xA5;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(dynamic_shared, bytes);
    std::fill_n(dynamic_shared, bytes, kGarbage);
    if (__asan_poison_memory_region) __asan_poison_memory_region(dynamic_shared + bytes, kMaxShared - bytes);
}

}  // namespace cuda_on_cpu
