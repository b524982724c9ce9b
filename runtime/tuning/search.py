"""Search of the largest budget that meets a goal, independent of how a budget is measured.

1. A coarse curve, at budgets whose row count (prefix + kept) is a multiple of 8: GPU latency has its steps there.
2. Refinement around the place where the curve crosses the goal, down to single tokens.
3. The selected budget is measured again, because the best of many noisy measurements is biased.

Clock frequency, temperature and other processes change during a search. The speed-up over the full model, taken in the
same rounds, is not affected. So the curve holds speed-ups, a latency is predicted from the full model's last latency,
and a budget that misses the goal when measured again leads to another search with a larger safety margin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tokfilter.errors import BudgetError
from tokfilter.runtime.tuning.goals import ClockDrift, Goal, TunedBudget, TuningPoint

__all__ = ["REPORTED_DRIFT", "Measure", "coarse_budgets", "select_budget"]

REPORTED_DRIFT: Final = 0.05
"""Spread of the full model's latency above which the result mentions it."""

_COARSE: Final = 9
_FINE: Final = 4
_REFINEMENTS: Final = 5
_ALIGNMENT: Final = 8
_SAME_LATENCY: Final = 1.01
"""Latencies within this ratio count as equal."""

_SAFETY_MARGINS: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Distances kept from the goal, tried in order: the first cover noise, the last a machine whose clock jumps."""

_MAX_MISSES: Final = 2
"""After so many misses of the fastest budget the search fails."""

_MIN_GAIN: Final = 0.03
"""A larger budget is tried after a good one only when it is predicted to meet a goal that is tighter by this."""

Measure = Callable[[Sequence[int]], list[TuningPoint]]
"""Budgets in tokens -> their measurements, in the same order."""


def select_budget(goal: Goal, measure: Measure, budgets: Sequence[int], prefix_tokens: int = 1) -> TunedBudget:
    """The largest budget that meets a goal.

    budgets: those that the engine serves, ascending
    Raises BudgetError when none meets it, with the nearest.
    """
    if not budgets:
        raise BudgetError("there is no filtered budget to choose from: export a filtered model.")
    search = _Search(goal, measure, budgets)
    if goal.kind == "drop":
        return _select_by_drop(search, prefix_tokens)
    search.measure_budgets(coarse_budgets(budgets, prefix_tokens))
    return _select_by_speed(search)


def coarse_budgets(budgets: Sequence[int], prefix_tokens: int) -> list[int]:
    """Some budgets spread evenly, ends included, at aligned row counts where there are such."""
    aligned = [k for k in budgets if (k + prefix_tokens) % _ALIGNMENT == 0] or list(budgets)
    step = max(1, (len(aligned) - 1) // (_COARSE - 2)) if len(aligned) > 1 else 1
    return sorted({budgets[0], *aligned[::step], budgets[-1]})


@dataclass
class _Search:
    """The curve so far, and the full model's latency at each measurement."""

    goal: Goal
    measure: Measure
    budgets: Sequence[int]
    curve: dict[int, TuningPoint] = field(default_factory=dict)
    full_ms: list[float] = field(default_factory=list)

    @property
    def drift(self) -> ClockDrift:
        return ClockDrift(self.full_ms[0], self.full_ms[-1], min(self.full_ms), max(self.full_ms))

    def measure_budgets(self, budgets: Sequence[int]) -> None:
        """Measure budgets; the last measurement of a budget counts."""
        points = self.measure(budgets)
        self.curve.update((point.tokens, point) for point in points)
        self.full_ms.append(points[-1].full_ms)

    def remeasure(self, tokens: int) -> TuningPoint:
        """Measure one selected budget again."""
        self.measure_budgets([tokens])
        self.curve[tokens] = point = replace(self.curve[tokens], remeasured=True)
        return point

    def candidate(self, margin: float) -> int | None:
        """The largest budget predicted to meet the goal with a margin at the last clock, after refinement."""
        for _ in range(_REFINEMENTS):
            if not (fine := self._between(margin)):
                break
            self.measure_budgets(fine)
        return self._edges(margin)[0]

    def predicted_to_meet(self, point: TuningPoint) -> bool:
        """Whether a measured budget would meet the goal at the last clock."""
        return point.speedup.value >= self.goal.min_speedup(self.full_ms[-1]) * (1 - 1e-9)

    def fastest(self) -> int:
        return max(self.curve, key=lambda k: self.curve[k].speedup.value)

    def next_larger(self, tokens: int) -> int | None:
        """The next larger budget that was measured."""
        return min((k for k in self.curve if k > tokens), default=None)

    def _edges(self, margin: float) -> tuple[int | None, int | None]:
        """The largest budget predicted to meet the goal, and the next larger one that was measured."""
        required = self.goal.min_speedup(self.full_ms[-1]) / (1 - margin)
        inside = max((k for k, p in self.curve.items() if p.speedup.value >= required * (1 - 1e-9)), default=None)
        return inside, None if inside is None else self.next_larger(inside)

    def _between(self, margin: float) -> list[int]:
        inside, outside = self._edges(margin)
        if inside is None or outside is None:
            return []
        gap = [k for k in self.budgets if inside < k < outside]
        step = max(1, len(gap) // _FINE)
        return gap[step // 2 :: step][:_FINE] if gap else []


def _select_by_speed(search: _Search) -> TunedBudget:
    """Remeasure the best candidate, with larger and larger safety margins, until one meets the goal.

    Raises BudgetError when the fastest budget misses the goal twice.
    """
    selected: TuningPoint | None = None
    missed: list[TuningPoint] = []
    for margin in _SAFETY_MARGINS:
        candidate = search.candidate(margin if selected is None else _MIN_GAIN)
        if selected is not None and (candidate is None or candidate <= selected.tokens):
            break
        fastest = search.fastest()
        point = search.remeasure(fastest if candidate is None else candidate)
        if search.goal.met_by(point):
            selected = point
        elif selected is not None and search.predicted_to_meet(selected):
            break
        else:
            selected = None
            missed += [point] if point.tokens == fastest else []
            if len(missed) == _MAX_MISSES:
                raise _none_meets(search, missed)
    return _tuned(search, selected or _fastest_that_meets(search, missed))


def _fastest_that_meets(search: _Search, missed: list[TuningPoint]) -> TuningPoint:
    """The fastest budget, where every candidate missed the goal. Raises BudgetError."""
    point = search.remeasure(search.fastest())
    if not search.goal.met_by(point):
        raise _none_meets(search, [*missed, point])
    return point


def _none_meets(search: _Search, missed: Sequence[TuningPoint]) -> BudgetError:
    nearest = min(missed, key=lambda p: p.latency_ms if search.goal.kind == "latency" else -p.speedup.value)
    return BudgetError(
        f"no budget meets the goal of {search.goal}: the nearest is {_figures(nearest)}, remeasured."
        f"{_drift_text(search.drift)} Choose a less strict goal."
    )


def _tuned(search: _Search, point: TuningPoint) -> TunedBudget:
    larger = search.next_larger(point.tokens)
    remark = _full_remark(search.goal, point) if larger is None else _larger_remark(search, search.curve[larger])
    reason = f"{_figures(point)}, remeasured: goal {search.goal} is met{remark}.{_drift_text(search.drift)}"
    return TunedBudget(point.tokens, point, _ordered(search.curve), reason, search.drift)


def _larger_remark(search: _Search, point: TuningPoint) -> str:
    """A remark on the next larger budget, where it is predicted to miss the goal."""
    found = f"{point.tokens} tokens ({point.speedup.value:.2f} times as fast as full)"
    return "" if search.predicted_to_meet(point) else f"; {found} would miss it"


def _full_remark(goal: Goal, largest: TuningPoint) -> str:
    """A remark where the full model meets the goal too."""
    meets = goal.kind == "latency" and largest.full_ms <= goal.value
    return f"; the full model meets it too ({largest.full_ms:.2f} ms)" if meets else ""


def _select_by_drop(search: _Search, prefix_tokens: int) -> TunedBudget:
    """The smallest budget whose drop is allowed, or a slightly larger one of equal latency."""
    goal, budgets = search.goal, search.budgets
    allowed = [k for k in budgets if _drop_at(goal.drops, k) <= goal.value + 1e-9]
    if not allowed:
        best = min(goal.drops, key=lambda k: goal.drops[k])
        raise BudgetError(
            f"no budget meets the goal of {goal}: the least loss is {100 * goal.drops[best]:.1f} points, at {best} "
            "tokens. Allow more, or train longer."
        )
    least = allowed[0]
    near = [k for k in allowed if least < k <= least + 2 * _ALIGNMENT]
    search.measure_budgets(sorted({*coarse_budgets(budgets, prefix_tokens), least, *near}))
    floor = search.curve[least].speedup.value / _SAME_LATENCY
    tokens = max(k for k in (least, *near) if search.curve[k].speedup.value >= floor)
    point = search.remeasure(tokens)
    extra = "" if tokens == least else f" ({tokens - least} more than needed, at equal latency)"
    loss = 100 * _drop_at(goal.drops, tokens)
    met = f"{loss:.1f} points of {goal.metric} lost, goal {goal} is met.{_drift_text(search.drift)}"
    return TunedBudget(tokens, point, _ordered(search.curve), f"{_figures(point)}{extra}: {met}", search.drift)


def _drop_at(drops: Mapping[int, float], tokens: int) -> float:
    """Loss at the largest tested budget that is no larger: more tokens are assumed to lose no more."""
    tested = [k for k in drops if k <= tokens]
    return drops[max(tested)] if tested else float("inf")


def _drift_text(drift: ClockDrift) -> str:
    """A sentence on a clock drift worth reporting, else nothing."""
    if drift.spread <= REPORTED_DRIFT:
        return ""
    return (
        f" Clock drift: the full model took {drift.min_ms:.2f} to {drift.max_ms:.2f} ms during the search, "
        f"{100 * drift.change:+.0f} % from first to last. Speed-ups are not affected; milliseconds are those of the "
        "last measurement."
    )


def _figures(point: TuningPoint) -> str:
    return f"{point.tokens} tokens ({point.latency_ms:.2f} ms, {point.speedup.value:.2f} times as fast as full)"


def _ordered(curve: Mapping[int, TuningPoint]) -> list[TuningPoint]:
    return [curve[k] for k in sorted(curve)]
