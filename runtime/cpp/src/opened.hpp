// State of an open engine and its calls, without the thread guard of Engine.
#pragma once

#include <array>
#include <string>

#include "device.hpp"
#include "plan.hpp"

namespace tokfilter {

/// A plan on a GPU with memory, stream and events. Not thread-safe. Members are destroyed in reverse order,
/// each before those that it depends on.
struct Opened {
    Info info;
    int gpu = 0;
    OwnStream stream;
    std::array<OwnEvent, 4> marks;  ///< around the three stages of a run
    OwnEvent last;                  ///< after the last inference
    bool pending = false;           ///< whether `last` was recorded since open
    Buffer images, logits;          ///< of a run; grown to its batch
    Buffer slots, indices;          ///< allocated for the largest batch and budget, never moved
    Plan plan;
};

/// Check the directory, the machine and the plan, and load it.
Result<Opened> open_directory(const std::string& directory, const Options& options);

/// One call with host memory; waits for the result. After an error nothing writes to the caller's memory
/// either.
Status run_on_host(Opened& opened, const Call& call, Timing* timing);

/// Enqueue one call with device memory on its stream.
Status enqueue_on_device(Opened& opened, const Call& call);

/// Wait for the calls of enqueue_on_device.
Status wait(Opened& opened);

}  // namespace tokfilter
