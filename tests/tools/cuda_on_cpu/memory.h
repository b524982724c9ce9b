// Checked and counted access to global memory, behind __ldg and the kernel's stores.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

// Copies `bytes` (a power of two up to 16) from or to a device address, or host memory.
void load_bytes(void* value, const void* from, std::size_t bytes);
void store_bytes(void* to, const void* value, std::size_t bytes);

template <typename T>
T load(const T* from) {
    T value;
    load_bytes(&value, from, sizeof(T));
    return value;
}

template <typename T>
void store(T* to, const T& value) {
    store_bytes(to, &value, sizeof(T));
}

}  // namespace cuda_on_cpu
