import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.runtime.measure.statistics import Interval, break_even, macs_at, speedup_from_pairs


def card(macs, patches=196):
    return ModelCard("deit", (3, 224, 224), patches, 1, 10, [], 98, macs, {})


def test_speedup_is_the_median_of_paired_ratios():
    """Clock drift affects both latencies of a pair, so their ratio is unchanged."""
    drift = np.linspace(1, 5, 21)
    found = speedup_from_pairs(20 * drift, 10 * drift)
    assert found.value == found.low == found.high == pytest.approx(2.0)


def test_coverage_of_the_interval():
    generator, covered = np.random.default_rng(0), 0
    for trial in range(200):
        full, filtered = 2 * generator.lognormal(0, 0.1, 25), generator.lognormal(0, 0.1, 25)
        found = speedup_from_pairs(full, filtered, seed=trial)
        covered += found.low <= 2.0 <= found.high
    assert covered >= 180


@pytest.mark.parametrize("seed", range(3))
def test_interval_equals_scipys(seed):
    generator = np.random.default_rng(10 + seed)
    full, filtered = generator.lognormal(3, 0.1, 25), generator.lognormal(2, 0.2, 25)
    found = speedup_from_pairs(full, filtered, seed)
    resampled = {"n_resamples": 5000, "method": "percentile", "rng": np.random.default_rng(seed)}
    expected = bootstrap((full / filtered,), np.median, **resampled).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=1, max_size=30))
def test_interval_contains_its_value_and_is_reproducible(pairs):
    full, filtered = zip(*pairs, strict=True)
    found = speedup_from_pairs(full, filtered, seed=3)
    assert found.low <= found.value <= found.high
    assert found == speedup_from_pairs(full, filtered, seed=3)


@pytest.mark.parametrize(
    ("full", "filtered", "message"),
    [
        ([], [], "requires pairs"),
        ([1.0], [1.0, 2.0], "requires pairs"),
        ([0.0], [1.0], "positive"),
        ([1.0], [float("nan")], "positive"),
    ],
)
def test_speedup_refuses(full, filtered, message):
    with pytest.raises(ValueError, match=message):
        speedup_from_pairs(full, filtered)


def test_intervals_overlap():
    assert Interval(1, 0.9, 1.1).overlaps(Interval(1.2, 1.1, 1.3))
    assert not Interval(1, 0.9, 1.1).overlaps(Interval(1.3, 1.2, 1.4))


def test_macs_of_any_budget_follow_exactly_from_three():
    """The counts are torch's for deit_small_patch16_224 (see macs.py's test); 117 tokens were left out of the card."""

    def count(k):
        rows = k + 1
        return 12 * (12 * rows * 384**2 + 2 * rows * rows * 384) + 70_000_000

    known = card({"full": 4_600_000_000, **{str(k): count(k) for k in (49, 98, 147, 20)}})
    for k in (1, 117, 195):
        assert macs_at(known, k) == count(k)
    assert macs_at(known, 98) == count(98)
    assert macs_at(known, 196) == 4_600_000_000


def test_macs_of_too_few_budgets_are_none():
    assert macs_at(card({"full": 5, "98": 3}), 49) is None
    assert macs_at(card({"98": 3}), 196) is None


@pytest.mark.parametrize(
    ("lows", "tokens"),
    [
        ({98: 1.5, 49: 2.0}, 98),
        ({98: 0.9, 49: 1.2}, 49),
        ({98: 0.9, 49: 1.0}, None),
        ({150: 1.3, 98: 0.9, 49: 1.2}, 49),
        ({}, None),
    ],
)
def test_break_even_is_the_largest_budget_below_which_all_are_faster(lows, tokens):
    found = break_even(8, {k: Interval(low + 0.1, low, low + 0.2) for k, low in lows.items()}, 196)
    assert found.tokens == tokens and "Batch 8" in found.sentence
    assert found.keep == (None if tokens is None else tokens / 196)
