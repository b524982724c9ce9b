#include "choose.hpp"

#include <algorithm>
#include <cstring>

#include "text.hpp"

namespace tokfilter {
namespace {

bool serves(const std::optional<Range>& range, std::int64_t value) {
    return !range || (range->low <= value && value <= range->high);
}

std::string inventory(const Manifest& manifest) {
    std::string out;
    for (const Entry& entry : manifest.files)
        if (!entry.runtime.empty())
            out += text(out.empty() ? "" : ", ", entry.path, " (", entry.role, ", ", entry.runtime, ", ",
                        entry.precision, ")");
    return out.empty() ? "no models at all" : out;
}

std::string budgets_text(const Info& info) {
    if (info.budget.low == info.budget.high)
        return text("the budget of ", info.budget.low, " of ", info.patches, " tokens only");
    return text("budgets from ", info.budget.low, " to ", info.budget.high, " of ", info.patches, " tokens");
}

std::string ranges_text(const Profile& profile) {
    const auto budget =
        profile.budget ? text(" at ", profile.budget->low, " to ", profile.budget->high, " tokens") : "";
    return text("batches of ", profile.batch.low, " to ", profile.batch.high, budget);
}

// The union of the profiles' ranges.
template <class Get>
std::optional<Range> span(const std::vector<Profile>& profiles, Get get) {
    std::optional<Range> all;
    for (const Profile& profile : profiles) {
        const std::optional<Range> one = get(profile);
        if (!one) continue;
        if (!all) all = one;
        all->low = std::min(all->low, one->low);
        all->high = std::max(all->high, one->high);
    }
    return all;
}

}  // namespace

Result<Entry> entry_for(const Manifest& manifest, const Options& options, const std::string& runtime) {
    if (options.tokens < 0)
        return Status(Code::argument,
                      text("tokens expects a budget, or 0 for no preference, got ", options.tokens, "."));
    const std::string role = options.role == Role::full ? "full" : "filtered";
    const bool has_budget = options.tokens > 0 && options.role == Role::filtered;
    const Entry* elastic = nullptr;
    const Entry* fixed = nullptr;
    for (const Entry& entry : manifest.files) {
        if (entry.role != role || entry.runtime != runtime || entry.precision != options.precision) continue;
        if (has_budget && entry.budget == options.tokens) return entry;
        if (!entry.budget && elastic == nullptr &&
            (!has_budget || serves(entry.budget_range, options.tokens)))
            elastic = &entry;
        if (entry.budget && fixed == nullptr && !has_budget) fixed = &entry;
    }
    if (elastic != nullptr) return *elastic;
    if (fixed != nullptr) return *fixed;
    return Status(Code::manifest,
                  text("the export directory has no ", role, " ", runtime, " model in ", options.precision,
                       has_budget ? text(" at ", options.tokens, " tokens") : "", "; it has ",
                       inventory(manifest), ". Export again with these options."));
}

bool Profile::serves(std::int64_t batch_size, std::int64_t tokens) const noexcept {
    return tokfilter::serves(batch, batch_size) && tokfilter::serves(budget, tokens);
}

Range budgets_of(const Manifest& manifest, const Entry& entry, const std::vector<Profile>& profiles) {
    const Card& card = manifest.model;
    if (entry.role == "full") return {card.num_patches, card.num_patches, card.num_patches};
    const auto built = span(profiles, [](const Profile& profile) { return profile.budget; });
    if (!built) {
        const std::int64_t fixed = entry.budget.value_or(card.keep);
        return {fixed, fixed, fixed};
    }
    const Range stated = entry.budget_range.value_or(*built);
    const std::int64_t low = std::max(stated.low, built->low);
    const std::int64_t high = std::max(low, std::min({stated.high, built->high, card.num_patches}));
    return {low, std::clamp(manifest.chosen_tokens.value_or(card.keep), low, high), high};
}

Range batches_of(const Entry& entry, const std::vector<Profile>& profiles) {
    const auto built =
        span(profiles, [](const Profile& profile) { return std::optional<Range>(profile.batch); });
    const Range stated = entry.batch_range.value_or(built.value_or(Range{}));
    if (!built) return stated;
    const std::int64_t low = std::max(stated.low, built->low);
    const std::int64_t high = std::max(low, std::min(stated.high, built->high));
    return {low, std::clamp(stated.best, low, high), high};
}

Result<Profile> serving_profile(const std::vector<Profile>& profiles, std::int64_t batch,
                                std::int64_t tokens) {
    const auto width = [](const Profile& p) {
        return std::pair(p.batch.high - p.batch.low, p.budget ? p.budget->high - p.budget->low : 0);
    };
    const Profile* narrowest = nullptr;
    std::string all;
    for (const Profile& profile : profiles) {
        all += (all.empty() ? "" : "; ") + ranges_text(profile);
        if (profile.serves(batch, tokens) && (narrowest == nullptr || width(profile) < width(*narrowest)))
            narrowest = &profile;
    }
    if (narrowest != nullptr) return *narrowest;
    return Status(Code::range, text("this plan serves ", all, "; got a batch of ", batch, " at ", tokens,
                                    " tokens. Split the batch, or export with other ranges."));
}

std::int64_t tokens_of(const Info& info, const Call& call) noexcept {
    return call.tokens == 0 ? info.budget.best : call.tokens;
}

Status check_call(const Info& info, const Call& call) {
    const auto& shape = call.shape;
    const bool floats = info.preprocess.form == InputForm::floats;
    if ((floats ? call.pixels : static_cast<const void*>(call.images)) != nullptr)
        return {Code::argument, floats ? "this plan takes normalised floats: pass images, not pixels."
                                       : "this plan normalises its input itself: pass pixels, not images."};
    if ((floats ? static_cast<const void*>(call.images) : call.pixels) == nullptr || call.logits == nullptr)
        return {Code::argument, text("a call needs memory for ", floats ? "images" : "pixels",
                                     " and logits, got a null pointer.")};
    if (shape[0] < 1 || shape != info.preprocess.shape(shape[0])) {
        const auto expected = info.preprocess.shape(0);
        return {Code::argument,
                text("images: expected [batch, ", expected[1], ", ", expected[2], ", ", expected[3],
                     floats ? "] float32" : "] uint8", ", got ", shape_text(shape), ".")};
    }
    if (shape[0] < info.batch.low || shape[0] > info.batch.high)
        return {Code::range, text("this engine serves batches of ", info.batch.low, " to ", info.batch.high,
                                  ", got ", shape[0], ". Split the batch, or export with another range.")};
    const std::int64_t tokens = tokens_of(info, call);
    if (tokens < info.budget.low || tokens > info.budget.high)
        return {Code::range, text("this engine serves ", budgets_text(info), ", got ", tokens,
                                  ". Choose one of these, or export for it.")};
    const auto need = [&](std::int64_t row) { return static_cast<std::size_t>(shape[0] * row); };
    if (call.logits_room < need(info.classes))
        return {Code::argument, text("logits of this call need room for ", need(info.classes),
                                     " floats, got ", call.logits_room, ".")};
    if (call.indices != nullptr && !info.has_indices)
        return {Code::argument, "this plan has no output of kept indices: pass a null pointer for them."};
    if (call.indices != nullptr && call.indices_room < need(tokens))
        return {Code::argument, text("indices of this call need room for ", need(tokens), " numbers, got ",
                                     call.indices_room, ".")};
    return {};
}

Status check_finite(const float* values, std::size_t count) {
    constexpr std::uint32_t kExponent = 0x7f800000;  // all ones: NaN or infinity
    constexpr std::size_t kBlock = 1 << 14;          // short enough to stop early, long enough to vectorise
    for (std::size_t start = 0; start < count; start += kBlock) {
        std::uint32_t found = 0;
        for (std::size_t i = start; i < std::min(count, start + kBlock); ++i) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, values + i, sizeof bits);
            found |= static_cast<std::uint32_t>((bits & kExponent) == kExponent);
        }
        if (found != 0)
            return {Code::argument, "images hold NaN or infinity: check the decoding and the normalisation."};
    }
    return {};
}

}  // namespace tokfilter
