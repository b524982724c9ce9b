// Dynamic shared memory: what `extern __shared__ unsigned char dynamic_shared[]` in a kernel refers to.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

constexpr std::size_t kMaxShared = 48 * 1024;  // limit per block without opt-in

// At the start of a block: fills the launch's dynamic shared memory with garbage; under AddressSanitizer the
// rest is out of bounds.
void fill_dynamic_shared(std::size_t bytes);

}  // namespace cuda_on_cpu
