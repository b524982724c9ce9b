// Which plan of a directory serves a request, which budgets and batches it serves, and what it was built for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace tokfilter {

/// A plan made for exactly `tokens` comes before one whose budget is chosen at run time. Code::manifest,
/// Code::argument.
Result<Entry> entry_for(const Manifest& manifest, const Options& options, const std::string& runtime);

/// Shapes that one optimization profile of a plan serves.
struct Profile {
    int index = 0;
    Range batch;
    std::optional<Range> budget;  ///< none where the plan has no `slots`

    bool serves(std::int64_t batch_size, std::int64_t tokens) const noexcept;
};

/// Budgets that a plan serves, best being the default: what `tokfilter tune` chose, else the model's own.
Range budgets_of(const Manifest& manifest, const Entry& entry, const std::vector<Profile>& profiles);

/// Batches that a plan serves.
Range batches_of(const Entry& entry, const std::vector<Profile>& profiles);

/// The narrowest profile that serves a batch at a budget. Code::range, saying which ranges there are.
Result<Profile> serving_profile(const std::vector<Profile>& profiles, std::int64_t batch,
                                std::int64_t tokens);

/// Code::argument or Code::range unless an engine that serves `info` can serve `call`: shape, room, batch,
/// budget.
Status check_call(const Info& info, const Call& call);

/// The budget that a call asks for.
std::int64_t tokens_of(const Info& info, const Call& call) noexcept;

/// Code::argument when there is NaN or infinity among the values.
Status check_finite(const float* values, std::size_t count);

}  // namespace tokfilter
