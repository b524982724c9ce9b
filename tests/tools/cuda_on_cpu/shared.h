// Dynamic shared memory: what `extern __shared__ unsigned char dynamic_shared[]` in a kernel refers to.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

constexpr std::size_t kMaxShared = 48 * 1024;  // what a block may ask for without opting in to more

// At the start of a block: garbage in what the launch asked for; under AddressSanitizer the rest is out of
// bounds.
void fill_dynamic_shared(std::size_t bytes);

}  // namespace cuda_on_cpu
