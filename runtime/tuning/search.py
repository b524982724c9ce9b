"""How a budget is found from measurements, whatever does the measuring.

Latency against budget is neither a line nor a staircase. A coarse curve comes first, at budgets whose row count
(prefix + kept) is a multiple of 8, where GPUs have their steps. Then the place where the curve crosses the goal is
measured closer and closer, down to single tokens. At last the choice is measured afresh, because the best of many
noisy measurements looks better than it is.

A machine changes its pace while it is measured: clocks, heat, neighbours. The speed-up over the full model, taken in
the same rounds, does not change with it. So the curve is one of speed-ups, a latency is read off it at the pace of the
last measurement, and what misses or undershoots the goal when measured afresh is sought again at the new pace.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tokfilter.errors import BudgetError
from tokfilter.runtime.tuning.goals import Choice, Goal, Pace, Point

__all__ = ["PACE_CHANGE", "Measure", "choose", "coarse_budgets"]

PACE_CHANGE: Final = 0.05
"""A change of pace while tuning that is told."""

_COARSE: Final = 9
_FINE: Final = 4
_CLOSER: Final = 5
_ALIGNMENT: Final = 8
_FREE: Final = 1.01
"""More tokens at no more than this ratio of the latency count as free."""

_MARGINS: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""What is kept away from the goal, try by try: noise is met by the first ones, a machine that jumps by the last."""

_MISSES: Final = 2
"""So often the fastest budget misses the goal before it is given up."""

_WORTH: Final = 0.03
"""A larger budget is tried after a good one only when it promises to meet a goal that is so much tighter."""

Measure = Callable[[Sequence[int]], list[Point]]
"""Budgets in tokens -> what they measure, in the same order."""


def choose(goal: Goal, measure: Measure, budgets: Sequence[int], prefix_tokens: int = 1) -> Choice:
    """The budget that meets a goal and keeps most tokens.

    budgets: those that the engine serves, ascending
    Raises BudgetError when none meets it, with the nearest.
    """
    if not budgets:
        raise BudgetError("there is no filtered budget to choose from: export a filtered model.")
    search = _Search(goal, measure, budgets)
    if goal.kind == "drop":
        return _chosen_by_drop(search, prefix_tokens)
    search.look_at(coarse_budgets(budgets, prefix_tokens))
    return _chosen_by_speed(search)


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
    curve: dict[int, Point] = field(default_factory=dict)
    full_ms: list[float] = field(default_factory=list)

    @property
    def pace(self) -> Pace:
        return Pace(self.full_ms[0], self.full_ms[-1], min(self.full_ms), max(self.full_ms))

    def look_at(self, budgets: Sequence[int]) -> None:
        """Measure budgets; the last measurement of a budget counts."""
        points = self.measure(budgets)
        self.curve.update((point.tokens, point) for point in points)
        self.full_ms.append(points[-1].full_ms)

    def look_again(self, tokens: int) -> Point:
        """Measure one budget afresh."""
        self.look_at([tokens])
        self.curve[tokens] = fresh = replace(self.curve[tokens], fresh=True)
        return fresh

    def best(self, margin: float) -> int | None:
        """The largest budget that promises to meet the goal at the present pace with a margin, looked at closely."""
        for _ in range(_CLOSER):
            if not (fine := self._between(margin)):
                break
            self.look_at(fine)
        return self._edges(margin)[0]

    def promises(self, point: Point) -> bool:
        """Whether a measured budget would meet the goal at the present pace."""
        return point.speedup.value >= self.goal.least_speedup(self.full_ms[-1]) * (1 - 1e-9)

    def fastest(self) -> int:
        return max(self.curve, key=lambda k: self.curve[k].speedup.value)

    def outside(self, tokens: int) -> int | None:
        """The next larger budget that was measured."""
        return min((k for k in self.curve if k > tokens), default=None)

    def _edges(self, margin: float) -> tuple[int | None, int | None]:
        """The largest budget that promises to meet the goal, and the next larger one that was measured."""
        wanted = self.goal.least_speedup(self.full_ms[-1]) / (1 - margin)
        inside = max((k for k, point in self.curve.items() if point.speedup.value >= wanted * (1 - 1e-9)), default=None)
        return inside, None if inside is None else self.outside(inside)

    def _between(self, margin: float) -> list[int]:
        inside, outside = self._edges(margin)
        if inside is None or outside is None:
            return []
        gap = [k for k in self.budgets if inside < k < outside]
        step = max(1, len(gap) // _FINE)
        return gap[step // 2 :: step][:_FINE] if gap else []


def _chosen_by_speed(search: _Search) -> Choice:
    """Try the best promise, with more and more margin, until a fresh measurement keeps it.

    Raises BudgetError when the fastest budget misses the goal twice, measured afresh.
    """
    kept: Point | None = None
    missed: list[Point] = []
    for margin in _MARGINS:
        promise = search.best(margin if kept is None else _WORTH)
        if kept is not None and (promise is None or promise <= kept.tokens):
            break
        fastest = search.fastest()
        fresh = search.look_again(fastest if promise is None else promise)
        if search.goal.met_by(fresh):
            kept = fresh
        elif kept is not None and search.promises(kept):
            break
        else:
            kept = None
            missed += [fresh] if fresh.tokens == fastest else []
            if len(missed) == _MISSES:
                raise _none_meets(search, missed)
    return _decided(search, kept or _last_resort(search, missed))


def _last_resort(search: _Search, missed: list[Point]) -> Point:
    """The fastest budget, for a machine whose pace let every promise down. Raises BudgetError."""
    fresh = search.look_again(search.fastest())
    if not search.goal.met_by(fresh):
        raise _none_meets(search, [*missed, fresh])
    return fresh


def _none_meets(search: _Search, missed: Sequence[Point]) -> BudgetError:
    nearest = min(missed, key=lambda p: p.latency_ms if search.goal.kind == "latency" else -p.speedup.value)
    return BudgetError(
        f"no budget meets the goal of {search.goal}: the nearest is {_figures(nearest)}, measured afresh."
        f"{_unsteady(search.pace)} Ask for less."
    )


def _decided(search: _Search, kept: Point) -> Choice:
    outside = search.outside(kept.tokens)
    beyond = _full_too(search.goal, kept) if outside is None else _larger(search, search.curve[outside])
    reason = f"{_figures(kept)}, measured afresh: goal {search.goal} is met{beyond}.{_unsteady(search.pace)}"
    return Choice(kept.tokens, kept, _ordered(search.curve), reason, search.pace)


def _larger(search: _Search, point: Point) -> str:
    """What speaks against the next larger budget, where its measurement does so at the pace of the last one."""
    found = f"{point.tokens} tokens ({point.speedup.value:.2f} times as fast as full)"
    return "" if search.promises(point) else f"; {found} would miss it"


def _full_too(goal: Goal, largest: Point) -> str:
    """A remark for who needs no filter."""
    meets = goal.kind == "latency" and largest.full_ms <= goal.value
    return f"; the full model meets it too ({largest.full_ms:.2f} ms)" if meets else ""


def _chosen_by_drop(search: _Search, prefix_tokens: int) -> Choice:
    """The smallest budget whose drop is allowed, then more tokens as long as they are free."""
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
    search.look_at(sorted({*coarse_budgets(budgets, prefix_tokens), least, *near}))
    floor = search.curve[least].speedup.value / _FREE
    tokens = max(k for k in (least, *near) if search.curve[k].speedup.value >= floor)
    fresh = search.look_again(tokens)
    free = "" if tokens == least else f" ({tokens - least} more than needed, at no cost in time)"
    loss = 100 * _drop_at(goal.drops, tokens)
    reason = f"{_figures(fresh)}{free}: {loss:.1f} points of top-1 lost, goal {goal} is met.{_unsteady(search.pace)}"
    return Choice(tokens, fresh, _ordered(search.curve), reason, search.pace)


def _drop_at(drops: Mapping[int, float], tokens: int) -> float:
    """Loss at the largest tested budget that is no larger: more tokens are taken to lose no more."""
    tested = [k for k in drops if k <= tokens]
    return drops[max(tested)] if tested else float("inf")


def _unsteady(pace: Pace) -> str:
    """A sentence about a machine that did not keep its pace, else nothing."""
    if pace.spread <= PACE_CHANGE:
        return ""
    return (
        f" This machine changed its pace while it was measured: the full model took {pace.least_ms:.2f} to "
        f"{pace.most_ms:.2f} ms, {100 * pace.change:+.0f} % from beginning to end. Speed-ups hold, milliseconds do so "
        "only at the last pace."
    )


def _figures(point: Point) -> str:
    return f"{point.tokens} tokens ({point.latency_ms:.2f} ms, {point.speedup.value:.2f} times as fast as full)"


def _ordered(curve: Mapping[int, Point]) -> list[Point]:
    return [curve[k] for k in sorted(curve)]
