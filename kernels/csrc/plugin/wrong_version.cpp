#include "wrong_version.h"

#include <NvInferVersion.h>

#include <cstdio>

#include "contract.h"

namespace tokfilter {

void* const* no_creators(const char* host, std::int32_t& count) noexcept {
    std::fprintf(
        stderr,
        "%s::%s: this library is built for TensorRT %d.%d and is loaded by TensorRT %s. Build it for that "
        "version: tokfilter plugin build --tensorrt <its folder>.\n",
        kNamespace, kName, NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, host);
    static void* const none[] = {nullptr};
    count = 0;
    return none;
}

}  // namespace tokfilter
