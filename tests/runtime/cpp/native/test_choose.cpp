// Choice of plan, budgets and profile: the same rules as runtime/model_files.py and the TensorRT session in
// Python.
#include <doctest/doctest.h>

#include <limits>

#include "choose.hpp"
#include "directory.hpp"

using tokfilter::Code;
using tokfilter::Entry;
using tokfilter::Manifest;
using tokfilter::Options;
using tokfilter::Profile;
using tokfilter::Range;
using tokfilter::Role;

namespace {

Entry plan(const std::string& path, const std::string& role, std::optional<std::int64_t> budget,
           std::optional<Range> range = std::nullopt, const std::string& precision = "fp32") {
    Entry entry;
    entry.path = path;
    entry.role = role;
    entry.runtime = "tensorrt";
    entry.precision = precision;
    entry.budget = budget;
    entry.budget_range = range;
    return entry;
}

Manifest manifest() {
    Manifest result;
    result.model.num_patches = 196;
    result.model.keep = 98;
    result.model.classes = 1000;
    result.files = {plan("k98", "filtered", 98), plan("narrow", "filtered", std::nullopt, Range{16, 98, 100}),
                    plan("wide", "filtered", std::nullopt, Range{1, 98, 196}),
                    plan("full", "full", std::nullopt), plan("half", "filtered", 98, std::nullopt, "fp16")};
    return result;
}

std::string chosen(const Manifest& from, const Options& options) {
    const auto entry = tokfilter::entry_for(from, options, "tensorrt");
    return entry.ok() ? entry->path : entry.status().message();
}

bool same(const Range& a, const Range& b) { return a.low == b.low && a.best == b.best && a.high == b.high; }

}  // namespace

TEST_CASE("priority: a plan for exactly the budget, then one with budgets at run time, then any fixed one") {
    CHECK(chosen(manifest(), {}) == "narrow");
    CHECK(chosen(manifest(), {Role::filtered, "fp32", 98, 0}) == "k98");
    CHECK(chosen(manifest(), {Role::filtered, "fp32", 50, 0}) == "narrow");
    CHECK(chosen(manifest(), {Role::filtered, "fp32", 150, 0}) == "wide");
    CHECK(chosen(manifest(), {Role::filtered, "fp16", 0, 0}) == "half");
    CHECK(chosen(manifest(), {Role::full, "fp32", 50, 0}) == "full");
}

TEST_CASE("the error for a missing plan lists the plans that exist") {
    CHECK(testing::contains_all(chosen(manifest(), {Role::filtered, "bf16", 0, 0}),
                                "has no filtered tensorrt model in bf16", "narrow (filtered, tensorrt, fp32)",
                                "Export again"));
    CHECK(testing::contains_all(chosen(manifest(), {Role::filtered, "fp16", 97, 0}), "in fp16 at 97 tokens"));
    CHECK(testing::contains_all(chosen(manifest(), {Role::filtered, "fp32", -1, 0}),
                                "0 for no preference, got -1"));
    CHECK(testing::contains_all(chosen(Manifest{}, {}), "it has no models at all"));
}

TEST_CASE("budgets and batches are the intersection of manifest and plan") {
    Manifest from = manifest();
    const std::vector<Profile> profiles{{0, {1, 1, 1}, Range{1, 98, 196}},
                                        {1, {1, 8, 32}, Range{16, 98, 120}}};
    CHECK(same(tokfilter::budgets_of(from, from.files[1], profiles), {16, 98, 100}));
    CHECK(same(tokfilter::budgets_of(from, from.files[2], profiles), {1, 98, 196}));
    from.chosen_tokens = 7;
    CHECK(same(tokfilter::budgets_of(from, from.files[2], profiles), {1, 7, 196}));
    CHECK(same(tokfilter::budgets_of(from, from.files[1], profiles), {16, 16, 100}));
    CHECK(same(tokfilter::budgets_of(from, from.files[3], {{0, {1, 1, 1}, std::nullopt}}), {196, 196, 196}));
    CHECK(same(tokfilter::budgets_of(from, from.files[0], {{0, {1, 1, 1}, std::nullopt}}), {98, 98, 98}));
    CHECK(same(tokfilter::batches_of(from.files[0], profiles), {1, 1, 32}));
    from.files[0].batch_range = Range{1, 4, 16};
    CHECK(same(tokfilter::batches_of(from.files[0], profiles), {1, 4, 16}));
}

TEST_CASE("the narrowest profile is chosen; the error lists all profiles") {
    const std::vector<Profile> profiles{{0, {1, 8, 32}, Range{1, 98, 196}},
                                        {1, {1, 1, 1}, Range{1, 98, 196}},
                                        {2, {1, 1, 1}, Range{98, 98, 98}}};
    CHECK(tokfilter::serving_profile(profiles, 1, 98)->index == 2);
    CHECK(tokfilter::serving_profile(profiles, 1, 97)->index == 1);
    CHECK(tokfilter::serving_profile(profiles, 2, 98)->index == 0);
    CHECK_STATUS(tokfilter::serving_profile(profiles, 33, 98).status(), Code::range,
                 "batches of 1 to 32 at 1 to 196 tokens; batches of 1 to 1", "got a batch of 33 at 98 tokens",
                 "Split the batch");
    CHECK_STATUS(tokfilter::serving_profile({}, 1, 1).status(), Code::range, "this plan serves");
}

TEST_CASE("NaN and infinity are found at any position") {
    std::vector<float> values(40'000, 1.0F);
    values[1] = -0.0F;
    values[2] = std::numeric_limits<float>::denorm_min();
    values[3] = std::numeric_limits<float>::max();
    CHECK(tokfilter::check_finite(values.data(), values.size()).ok());
    CHECK(tokfilter::check_finite(nullptr, 0).ok());
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
        for (const std::size_t at : {0UL, 16'383UL, 16'384UL, values.size() - 1}) {
            std::vector<float> some = values;
            some[at] = bad;
            CHECK_STATUS(tokfilter::check_finite(some.data(), some.size()), Code::argument,
                         "NaN or infinity");
        }
}
