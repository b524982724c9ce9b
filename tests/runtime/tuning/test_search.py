import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.errors import BudgetError, DataError
from tokfilter.runtime.comparison.compare import Plan
from tokfilter.runtime.measure.statistics import Interval, speedup_from_pairs
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.tuning.goals import Goal, Point
from tokfilter.runtime.tuning.search import choose, coarse_budgets

BUDGETS = range(1, 196)
FULL_MS = 20.0
OPTIONS = SessionOptions(threads=1)
QUICK = Plan(0.05, 0.0, 0.005)


def smooth(k):
    return 2.0 + 0.09 * k


def stairs(k):
    """Steps at rows that are multiples of 32, as of a GPU's tiles, on a slope."""
    return 2.0 + 0.09 * 32 * -(-(k + 1) // 32) + 0.001 * k


def bumpy(k):
    return 2.0 + 0.09 * k + (1.2 if (k + 1) % 16 else 0.0)


def machine(latency, noise=0.0, seed=0):
    generator, asked = np.random.default_rng(seed), []

    def measure(budgets):
        asked.append(list(budgets))
        found = [latency(k) * generator.lognormal(0, noise) for k in budgets]
        return [
            Point(k, ms, FULL_MS, Interval(FULL_MS / ms, FULL_MS / ms, FULL_MS / ms))
            for k, ms in zip(budgets, found, strict=True)
        ]

    return measure, asked


@pytest.mark.parametrize("latency", [smooth, stairs])
@pytest.mark.parametrize("goal", [3.0, 7.5, 11.11, 19.0])
def test_latency_goal_finds_the_largest_budget_to_the_token(latency, goal):
    measure, asked = machine(latency)
    wanted = max((k for k in BUDGETS if latency(k) <= goal), default=None)
    if wanted is None:
        with pytest.raises(BudgetError, match="no budget meets the goal of at most 3 ms: the nearest is"):
            choose(Goal("latency", goal), measure, BUDGETS)
        return
    found = choose(Goal("latency", goal), measure, BUDGETS)
    assert found.tokens == wanted and found.point.fresh
    assert sum(map(len, asked)) < 45
    assert f"{wanted} tokens" in found.reason and "measured afresh" in found.reason


def test_budgets_snap_to_where_the_hardware_gives_most():
    """On a staircase any goal ends at the last token of a step: 31 tokens and CLS fill a tile of 32 rows."""
    found = choose(Goal("latency", stairs(63) + 0.5), machine(stairs)[0], BUDGETS)
    assert found.tokens == 63


def test_aligned_budgets_are_looked_at_first():
    coarse = coarse_budgets(BUDGETS, 1)
    assert coarse[0] == 1 and coarse[-1] == 195
    assert all((k + 1) % 8 == 0 for k in coarse[1:-1]) and 6 <= len(coarse) <= 12
    assert coarse_budgets([5], 1) == [5]
    assert coarse_budgets([3, 4], 1) == [3, 4]


def test_bump_between_fast_budgets_is_not_chosen():
    found = choose(Goal("latency", 10.0), machine(bumpy)[0], BUDGETS)
    assert bumpy(found.tokens) <= 10.0


@settings(max_examples=40, deadline=None)
@given(st.floats(3.5, 18.0), st.integers(0, 10_000))
def test_noise_does_not_lead_far_beyond_the_goal(goal, seed):
    """The choice was fresh once: what it really takes is within the noise of the goal, here 3 %."""
    found = choose(Goal("latency", goal), machine(smooth, 0.03, seed)[0], BUDGETS)
    assert smooth(found.tokens) <= goal * 1.1


def test_speedup_goal():
    found = choose(Goal("speedup", 2.0), machine(smooth)[0], BUDGETS)
    assert found.tokens == max(k for k in BUDGETS if FULL_MS / smooth(k) >= 2.0)
    with pytest.raises(BudgetError, match="at least 50 times as fast"):
        choose(Goal("speedup", 50.0), machine(smooth)[0], BUDGETS)


def test_goal_that_every_budget_meets_keeps_most_tokens():
    found = choose(Goal("latency", 1000.0), machine(smooth)[0], BUDGETS)
    assert found.tokens == 195 and "the full model meets it too (20.00 ms)" in found.reason


def test_fixed_budgets_only():
    measure, asked = machine(smooth)
    found = choose(Goal("latency", 8.0), measure, [40, 98])
    assert found.tokens == 40 and asked == [[40, 98], [40]]


def test_drop_goal_takes_free_tokens():
    drops = {20: 0.08, 40: 0.03, 60: 0.009, 98: 0.004, 150: 0.0}
    found = choose(Goal("drop", 0.01, drops), machine(stairs)[0], BUDGETS)
    assert found.tokens == 63 and "0.9 points" in found.reason and "3 more than needed" in found.reason
    assert choose(Goal("drop", 0.0, drops), machine(stairs)[0], BUDGETS).tokens >= 150
    with pytest.raises(BudgetError, match=r"the least loss is 2.0 points, at 40 tokens"):
        choose(Goal("drop", 0.01, {20: 0.08, 40: 0.02}), machine(stairs)[0], BUDGETS)


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
def test_goals_that_are_none(kind, value):
    with pytest.raises(DataError, match="a goal of"):
        Goal(kind, value)


def test_nothing_to_choose_from():
    with pytest.raises(BudgetError, match="no filtered budget"):
        choose(Goal("latency", 5.0), machine(smooth)[0], [])


class Unsteady:
    """A simulated machine whose pace changes with the seconds that measuring takes; blocks as in ``run_rounds``."""

    ROUNDS, BLOCK_S = 5, 0.1

    def __init__(self, latency, pace, noise=0.0, seed=0):
        self.latency, self.pace, self.noise = latency, pace, noise
        self.generator, self.now, self.told = np.random.default_rng(seed), 0.0, []

    def block(self, ms):
        self.now += self.BLOCK_S
        return ms * self.pace(self.now) * self.generator.lognormal(0, self.noise)

    def measure(self, budgets):
        full, found = [], {k: [] for k in budgets}
        for number in range(self.ROUNDS):
            turns = [(FULL_MS, full), *((self.latency(k), found[k]) for k in budgets)]
            for ms, blocks in turns if number % 2 == 0 else reversed(turns):
                blocks.append(self.block(ms))
        points = [Point(k, np.median(ms), np.median(full), speedup_from_pairs(full, ms)) for k, ms in found.items()]
        self.told += [(point.tokens, point.latency_ms) for point in points]
        return points


def drift(share, seconds=20.0):
    """A pace that comes ``share`` slower (or faster, below 0) over some seconds and stays there."""
    return lambda now: 1 + share * min(now / seconds, 1.0)


def jumps(share, every_s, seed):
    """A pace that is 1 or slower by ``share``, drawn anew every so many seconds."""
    return lambda now: 1 + share * np.random.default_rng([seed, int(now / every_s)]).integers(0, 2)


paces = st.one_of(
    st.builds(drift, st.floats(-0.6, 1.5), st.floats(1.0, 60.0)),
    st.builds(jumps, st.floats(0.0, 1.5), st.floats(0.3, 20.0), st.integers(0, 1000)),
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([smooth, stairs, bumpy]), paces, st.floats(0.0, 0.05), st.floats(1.2, 6.0), st.integers(0, 10_000)
)
def test_an_unsteady_machine_gets_a_budget_that_was_measured_to_meet_the_goal(latency, pace, noise, room, seed):
    """The goal leaves ``room`` above the fastest budget at the slowest pace, so there is one that meets it."""
    unsteady = Unsteady(latency, pace, noise, seed)
    goal = room * latency(1) * max(pace(now / 10) for now in range(1200))
    found = choose(Goal("latency", goal), unsteady.measure, BUDGETS)
    assert found.point.fresh and found.point.latency_ms <= goal
    assert (found.tokens, found.point.latency_ms) in unsteady.told
    assert len(unsteady.told) < 120


@settings(max_examples=60, deadline=None)
@given(paces, st.floats(1.5, 8.0), st.integers(0, 10_000))
def test_a_goal_of_speed_up_does_not_feel_the_pace(pace, speedup, seed):
    found = choose(Goal("speedup", speedup), Unsteady(smooth, pace, 0.01, seed).measure, BUDGETS)
    assert found.point.speedup.value >= speedup
    assert speedup * 0.9 <= FULL_MS / smooth(found.tokens) <= speedup * 1.5


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 1.0), st.floats(0.5, 0.9), st.integers(0, 10_000))
def test_after_a_drift_the_choice_is_right_for_the_last_pace(share, goal, seed):
    """The coarse curve alone outlasts the drift: what is chosen fills the goal at the pace that stays."""
    unsteady = Unsteady(smooth, drift(share, seconds=4.0), 0.005, seed)
    milliseconds = goal * FULL_MS * (1 + share)
    found = choose(Goal("latency", milliseconds), unsteady.measure, BUDGETS)
    assert 0.9 <= smooth(found.tokens) * (1 + share) / milliseconds <= 1.03


@settings(max_examples=60, deadline=None)
@given(paces, st.floats(0.2, 0.85), st.integers(0, 10_000))
def test_the_nearest_miss_that_is_named_is_a_miss(pace, share, seed):
    goal = share * smooth(1) * min(pace(now / 10) for now in range(1200))
    with pytest.raises(BudgetError, match="no budget meets the goal") as caught:
        choose(Goal("latency", goal), Unsteady(smooth, pace, 0.02, seed).measure, BUDGETS)
    named = float(re.search(r"tokens \(([\d.]+) ms", str(caught.value))[1])
    assert named > goal


def test_a_change_of_pace_is_told():
    slower = choose(Goal("latency", 12.0), Unsteady(smooth, drift(0.3)).measure, BUDGETS)
    assert "changed its pace while it was measured: the full model took 20." in slower.reason
    assert slower.pace.change == pytest.approx(0.3, abs=0.05) and slower.pace.spread >= slower.pace.change
    steady = choose(Goal("latency", 12.0), Unsteady(smooth, drift(0.0), 0.002).measure, BUDGETS)
    assert "pace" not in steady.reason and abs(steady.pace.change) < 0.02
    with pytest.raises(BudgetError, match=r"measured afresh\. This machine changed its pace"):
        choose(Goal("latency", 1.0), Unsteady(smooth, drift(0.3)).measure, BUDGETS)
    dropped = choose(Goal("drop", 0.01, {40: 0.0}), Unsteady(stairs, drift(0.3, 40.0)).measure, BUDGETS)
    assert "changed its pace" in dropped.reason


def test_free_tokens_are_free_on_a_drifting_machine_too():
    """The curve of a goal of drop is one of speed-ups: a drift does not make the later budgets look dear."""
    found = choose(Goal("drop", 0.01, {60: 0.0}), Unsteady(stairs, drift(1.0, 200.0)).measure, BUDGETS)
    assert found.tokens == 63
