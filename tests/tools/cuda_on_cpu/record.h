// The record of the launch that is running, shared by the layer's parts.
#pragma once

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

LaunchRecord& current_record();

}  // namespace cuda_on_cpu
