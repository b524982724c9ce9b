// A logger finder in a library named like a libnvinfer of another major version (libother_tensorrt.so.1).
// Calling it ends the program: its virtual functions may be at other places.
#include <NvInferRuntime.h>

#include <cstdlib>

#include "versions.h"

namespace {

class OtherFinder final : public tokfilter::LoggerFinder {
  public:
    nvinfer1::ILogger* findLogger() override { std::abort(); }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) tokfilter::LoggerFinder* other_finder() {
    static OtherFinder finder;
    return &finder;
}
