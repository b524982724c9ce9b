// Choice of a plan and a profile; budgets and batches of a plan; checks of a call.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace tokfilter {

/// Find the plan for the options. A plan with exactly this fixed budget is preferred to one with budgets at
/// run time. Code::manifest, Code::argument.
Result<Entry> entry_for(const Manifest& manifest, const Options& options, const std::string& runtime);

/// Shapes of one optimization profile.
struct Profile {
    int index = 0;
    Range batch;
    std::optional<Range> budget;  ///< none where the plan has no `slots`

    bool serves(std::int64_t batch_size, std::int64_t tokens) const noexcept;
};

/// Budgets of a plan; best is the default: chosen by `tokfilter tune`, else the model's.
Range budgets_of(const Manifest& manifest, const Entry& entry, const std::vector<Profile>& profiles);

/// Batch sizes of a plan.
Range batches_of(const Entry& entry, const std::vector<Profile>& profiles);

/// The narrowest profile for a batch at a budget. Code::range, with all ranges in the message.
Result<Profile> serving_profile(const std::vector<Profile>& profiles, std::int64_t batch,
                                std::int64_t tokens);

/// Check shape, batch, budget and buffer sizes of a call. Code::argument, Code::range.
Status check_call(const Info& info, const Call& call);

/// The budget of a call; 0 becomes the default.
std::int64_t tokens_of(const Info& info, const Call& call) noexcept;

/// Code::argument when there is NaN or infinity among the values.
Status check_finite(const float* values, std::size_t count);

}  // namespace tokfilter
