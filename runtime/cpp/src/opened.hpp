// What an open engine holds, and what it does with one call. Engine adds the guard.
#pragma once

#include <array>
#include <string>

#include "device.hpp"
#include "plan.hpp"

namespace tokfilter {

/// A plan on a GPU with the memory, stream and events that its calls need. Not safe for several threads.
/// The order of members is the order of need: what comes later is destroyed first.
struct Opened {
    Info info;
    int gpu = 0;
    OwnStream stream;
    std::array<OwnEvent, 4> marks;  ///< before and after the three stages of a run
    OwnEvent last;                  ///< after the last inference
    bool pending = false;           ///< whether `last` was recorded since open
    Buffer images, logits;          ///< of a run; grown to its batch
    Buffer slots, indices;          ///< for the largest batch and budget, so that they stay where they are
    Plan plan;
};

/// Check the directory, the machine and the plan, and load it.
Result<Opened> open_directory(const std::string& directory, const Options& options);

/// One call with host memory, waited for; whatever fails, nothing writes into the caller's memory afterwards.
Status run_on_host(Opened& opened, const Call& call, Timing* timing);

/// One call with device memory, put on its stream.
Status enqueue_on_device(Opened& opened, const Call& call);

/// Wait for what enqueue_on_device left on streams.
Status wait(Opened& opened);

}  // namespace tokfilter
