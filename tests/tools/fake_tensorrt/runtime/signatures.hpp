// What TensorRT 8.x declares otherwise, as far as the fake overrides it: parameters that 10.0 added or
// removed.
#pragma once

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR == 8
#define FAKE_CONTEXT_PARAMETERS
#define FAKE_DESERIALIZE_PARAMETERS const void *bytes, std::size_t size, IPluginFactory *
#define FAKE_CREATORS getPluginCreators
#else
#define FAKE_CONTEXT_PARAMETERS ExecutionContextAllocationStrategy
#define FAKE_DESERIALIZE_PARAMETERS const void *bytes, std::size_t size
#define FAKE_CREATORS getCreators
#endif

// The name of FAKE_CREATORS as text.
#define FAKE_TEXT_OF(name) #name
#define FAKE_TEXT(name) FAKE_TEXT_OF(name)

// Registries load plugin libraries from 8.6 on.
#if NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6
#define FAKE_REGISTRY_LOADS 0
#else
#define FAKE_REGISTRY_LOADS 1
#endif
