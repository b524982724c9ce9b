import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.errors import BudgetError, DataError
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.measure.statistics import Interval, speedup_from_pairs
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.tuning.goals import Goal, TuningPoint
from tokfilter.runtime.tuning.search import coarse_budgets, select_budget

BUDGETS = range(1, 196)
FULL_MS = 20.0
OPTIONS = SessionOptions(threads=1)
QUICK = BenchConfig(0.05, 0.0, 0.005)


def smooth(k):
    return 2.0 + 0.09 * k


def stairs(k):
    """Steps at rows that are multiples of 32, as of a GPU's tiles, on a slope."""
    return 2.0 + 0.09 * 32 * -(-(k + 1) // 32) + 0.001 * k


def bumpy(k):
    return 2.0 + 0.09 * k + (1.2 if (k + 1) % 16 else 0.0)


def machine(latency, noise=0.0, seed=0):
    generator, requested = np.random.default_rng(seed), []

    def measure(budgets):
        requested.append(list(budgets))
        found = [latency(k) * generator.lognormal(0, noise) for k in budgets]
        return [
            TuningPoint(k, ms, FULL_MS, Interval(FULL_MS / ms, FULL_MS / ms, FULL_MS / ms))
            for k, ms in zip(budgets, found, strict=True)
        ]

    return measure, requested


@pytest.mark.parametrize("latency", [smooth, stairs])
@pytest.mark.parametrize("goal", [3.0, 7.5, 11.11, 19.0])
def test_latency_goal_finds_the_largest_budget_to_the_token(latency, goal):
    measure, requested = machine(latency)
    expected = max((k for k in BUDGETS if latency(k) <= goal), default=None)
    if expected is None:
        with pytest.raises(BudgetError, match="no budget meets the goal of at most 3 ms: the nearest is"):
            select_budget(Goal("latency", goal), measure, BUDGETS)
        return
    found = select_budget(Goal("latency", goal), measure, BUDGETS)
    assert found.tokens == expected and found.point.remeasured
    assert sum(map(len, requested)) < 45
    assert f"{expected} tokens" in found.reason and "remeasured" in found.reason


def test_budget_is_the_last_token_of_a_hardware_step():
    """On a staircase every goal ends at the last token of a step: 63 tokens and CLS fill two tiles of 32 rows."""
    found = select_budget(Goal("latency", stairs(63) + 0.5), machine(stairs)[0], BUDGETS)
    assert found.tokens == 63


def test_coarse_budgets_are_aligned():
    coarse = coarse_budgets(BUDGETS, 1)
    assert coarse[0] == 1 and coarse[-1] == 195
    assert all((k + 1) % 8 == 0 for k in coarse[1:-1]) and 6 <= len(coarse) <= 12
    assert coarse_budgets([5], 1) == [5]
    assert coarse_budgets([3, 4], 1) == [3, 4]


def test_slow_budget_between_fast_ones_is_not_selected():
    found = select_budget(Goal("latency", 10.0), machine(bumpy)[0], BUDGETS)
    assert bumpy(found.tokens) <= 10.0


@settings(max_examples=40, deadline=None)
@given(st.floats(3.5, 18.0), st.integers(0, 10_000))
def test_noise_does_not_exceed_the_goal_by_much(goal, seed):
    """The selected budget was remeasured once, so its true latency is within the noise (3 %) of the goal."""
    found = select_budget(Goal("latency", goal), machine(smooth, 0.03, seed)[0], BUDGETS)
    assert smooth(found.tokens) <= goal * 1.1


def test_speedup_goal():
    found = select_budget(Goal("speedup", 2.0), machine(smooth)[0], BUDGETS)
    assert found.tokens == max(k for k in BUDGETS if FULL_MS / smooth(k) >= 2.0)
    with pytest.raises(BudgetError, match="at least 50 times as fast"):
        select_budget(Goal("speedup", 50.0), machine(smooth)[0], BUDGETS)


def test_goal_that_every_budget_meets_keeps_most_tokens():
    found = select_budget(Goal("latency", 1000.0), machine(smooth)[0], BUDGETS)
    assert found.tokens == 195 and "the full model meets it too (20.00 ms)" in found.reason


def test_fixed_budgets_only():
    measure, requested = machine(smooth)
    found = select_budget(Goal("latency", 8.0), measure, [40, 98])
    assert found.tokens == 40 and requested == [[40, 98], [40]]


def test_drop_goal_takes_extra_tokens_of_equal_latency():
    drops = {20: 0.08, 40: 0.03, 60: 0.009, 98: 0.004, 150: 0.0}
    found = select_budget(Goal("drop", 0.01, drops), machine(stairs)[0], BUDGETS)
    assert found.tokens == 63 and "0.9 points" in found.reason and "3 more than needed" in found.reason
    assert select_budget(Goal("drop", 0.0, drops), machine(stairs)[0], BUDGETS).tokens >= 150
    with pytest.raises(BudgetError, match=r"the least loss is 2.0 points, at 40 tokens"):
        select_budget(Goal("drop", 0.01, {20: 0.08, 40: 0.02}), machine(stairs)[0], BUDGETS)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("latency", 0),
        ("latency", -3.0),
        ("latency", float("nan")),
        ("speedup", float("inf")),
        ("drop", -0.1),
        ("drop", 0.01),
    ],
)
def test_invalid_goals_are_refused(kind, value):
    with pytest.raises(DataError, match="a goal of"):
        Goal(kind, value)


def test_nothing_to_choose_from():
    with pytest.raises(BudgetError, match="no filtered budget"):
        select_budget(Goal("latency", 5.0), machine(smooth)[0], [])


class DriftingMachine:
    """A simulated machine whose clock changes with measured time; blocks as in ``run_rounds``."""

    ROUNDS, BLOCK_S = 5, 0.1

    def __init__(self, latency, slowdown, noise=0.0, seed=0):
        self.latency, self.slowdown, self.noise = latency, slowdown, noise
        self.generator, self.now, self.measured = np.random.default_rng(seed), 0.0, []

    def block(self, ms):
        self.now += self.BLOCK_S
        return ms * self.slowdown(self.now) * self.generator.lognormal(0, self.noise)

    def measure(self, budgets):
        full, found = [], {k: [] for k in budgets}
        for number in range(self.ROUNDS):
            turns = [(FULL_MS, full), *((self.latency(k), found[k]) for k in budgets)]
            for ms, blocks in turns if number % 2 == 0 else reversed(turns):
                blocks.append(self.block(ms))
        points = [
            TuningPoint(k, np.median(ms), np.median(full), speedup_from_pairs(full, ms)) for k, ms in found.items()
        ]
        self.measured += [(point.tokens, point.latency_ms) for point in points]
        return points


def drift(fraction, seconds=20.0):
    """Slower by ``fraction`` (faster, below 0) over some seconds, then constant."""
    return lambda now: 1 + fraction * min(now / seconds, 1.0)


def jumps(fraction, every_s, seed):
    """Nominal or slower by ``fraction``, drawn again every ``every_s`` seconds."""
    return lambda now: 1 + fraction * np.random.default_rng([seed, int(now / every_s)]).integers(0, 2)


drifts = st.builds(drift, st.floats(-0.6, 1.5), st.floats(1.0, 60.0))


def jumps_every(min_s):
    return st.builds(jumps, st.floats(0.0, 1.5), st.floats(min_s, 20.0), st.integers(0, 1000))


slowdowns = st.one_of(drifts, jumps_every(0.3))
slow_changes = st.one_of(drifts, jumps_every(2.0))
"""Jumps further apart than a round: a jump within a round distorts the ratios of its pairs."""


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([smooth, stairs, bumpy]),
    slowdowns,
    st.floats(0.0, 0.05),
    st.floats(1.2, 6.0),
    st.integers(0, 10_000),
)
def test_budget_on_a_drifting_machine_was_measured_to_meet_the_goal(latency, slowdown, noise, room, seed):
    """The goal leaves ``room`` above the fastest budget at the slowest clock, so there is one that meets it."""
    simulated = DriftingMachine(latency, slowdown, noise, seed)
    goal = room * latency(1) * max(slowdown(now / 10) for now in range(1200))
    found = select_budget(Goal("latency", goal), simulated.measure, BUDGETS)
    assert found.point.remeasured and found.point.latency_ms <= goal
    assert (found.tokens, found.point.latency_ms) in simulated.measured
    assert len(simulated.measured) < 120


@settings(max_examples=60, deadline=None)
@given(slow_changes, st.floats(1.5, 8.0), st.integers(0, 10_000))
def test_clock_drift_does_not_affect_a_speedup_goal(slowdown, speedup, seed):
    found = select_budget(Goal("speedup", speedup), DriftingMachine(smooth, slowdown, 0.01, seed).measure, BUDGETS)
    assert found.point.speedup.value >= speedup
    assert speedup * 0.9 <= FULL_MS / smooth(found.tokens) <= speedup * 1.5


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 1.0), st.floats(0.5, 0.9), st.integers(0, 10_000))
def test_budget_after_a_drift_fits_the_last_clock(fraction, goal, seed):
    """The drift ends during the coarse curve: the selected budget fits the goal at the clock after it."""
    simulated = DriftingMachine(smooth, drift(fraction, seconds=4.0), 0.005, seed)
    milliseconds = goal * FULL_MS * (1 + fraction)
    found = select_budget(Goal("latency", milliseconds), simulated.measure, BUDGETS)
    assert 0.9 <= smooth(found.tokens) * (1 + fraction) / milliseconds <= 1.03


@settings(max_examples=60, deadline=None)
@given(slowdowns, st.floats(0.2, 0.85), st.integers(0, 10_000))
def test_the_reported_nearest_budget_misses_the_goal(slowdown, fraction, seed):
    goal = fraction * smooth(1) * min(slowdown(now / 10) for now in range(1200))
    with pytest.raises(BudgetError, match="no budget meets the goal") as caught:
        select_budget(Goal("latency", goal), DriftingMachine(smooth, slowdown, 0.02, seed).measure, BUDGETS)
    named = float(re.search(r"tokens \(([\d.]+) ms", str(caught.value))[1])
    assert named > goal


def test_clock_drift_is_reported():
    slower = select_budget(Goal("latency", 12.0), DriftingMachine(smooth, drift(0.3)).measure, BUDGETS)
    assert "Clock drift: the full model took 20." in slower.reason
    assert slower.drift.change == pytest.approx(0.3, abs=0.05) and slower.drift.spread >= slower.drift.change
    steady = select_budget(Goal("latency", 12.0), DriftingMachine(smooth, drift(0.0), 0.002).measure, BUDGETS)
    assert "drift" not in steady.reason and abs(steady.drift.change) < 0.02
    with pytest.raises(BudgetError, match=r"remeasured\. Clock drift"):
        select_budget(Goal("latency", 1.0), DriftingMachine(smooth, drift(0.3)).measure, BUDGETS)
    dropped = select_budget(Goal("drop", 0.01, {40: 0.0}), DriftingMachine(stairs, drift(0.3, 40.0)).measure, BUDGETS)
    assert "Clock drift" in dropped.reason


def test_extra_tokens_of_equal_latency_on_a_drifting_machine():
    """The curve holds speed-ups, so a drift does not change the order of later budgets."""
    found = select_budget(Goal("drop", 0.01, {60: 0.0}), DriftingMachine(stairs, drift(1.0, 200.0)).measure, BUDGETS)
    assert found.tokens == 63
