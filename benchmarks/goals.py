"""What a budget shall achieve, and how the budget is found from measurements, whatever does the measuring.

Latency against budget is neither a line nor a staircase. A coarse curve comes first, at budgets whose row count
(prefix + kept) is a multiple of 8, where GPUs have their steps. Then the place where the curve crosses the goal is
measured closer and closer, down to single tokens. At last the choice is measured afresh, and given up for a smaller
one while it misses: the best of many noisy measurements looks better than it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tokfilter.benchmarks.statistics import Interval
from tokfilter.errors import BudgetError, DataError

__all__ = ["Choice", "Goal", "Measure", "Point", "choose", "coarse_budgets"]

_COARSE: Final = 9
_FINE: Final = 4
_ALIGNMENT: Final = 8
_TRIES: Final = 5
_FREE: Final = 1.01
"""More tokens at no more than this ratio of the latency count as free."""


@dataclass(frozen=True)
class Point:
    """One measured budget. latency_ms: median; fresh: whether it was measured after the choice was made."""

    tokens: int
    latency_ms: float
    speedup: Interval
    fresh: bool = False


Measure = Callable[[Sequence[int]], list[Point]]
"""Budgets in tokens -> what they measure, in the same order."""


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    kind, value: latency (at most, milliseconds per batch), speedup (at least), or drop (at most, as a share of one)
    drops: budget -> loss of top-1 against the full model, for a goal of kind drop
    """

    kind: Literal["latency", "speedup", "drop"]
    value: float
    drops: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.value > 0 or (self.kind == "drop" and self.value >= 0)) or self.value == float("inf"):
            raise DataError(f"a goal of {self.kind} wants a positive number, got {self.value}.")
        if self.kind == "drop" and not self.drops:
            raise DataError("a goal of drop wants accuracies: give --accuracy accuracy.json or --images.")

    def met_by(self, point: Point) -> bool:
        """Whether a measured budget achieves it (latency and speed-up; a drop is known without measuring)."""
        return point.latency_ms <= self.value if self.kind == "latency" else point.speedup.value >= self.value

    def __str__(self) -> str:
        words = {"latency": f"at most {self.value:g} ms", "speedup": f"at least {self.value:g} times as fast as full"}
        return words.get(self.kind, f"at most {100 * self.value:g} points of top-1 lost")


@dataclass(frozen=True)
class Choice:
    """The budget that was found, and every measurement on the way (the last one of a budget counts)."""

    tokens: int
    point: Point
    curve: list[Point]
    reason: str


def choose(goal: Goal, measure: Measure, budgets: Sequence[int], prefix_tokens: int = 1) -> Choice:
    """The budget that meets a goal and keeps most tokens.

    budgets: those that the engine serves, ascending
    Raises BudgetError when none meets it, with the nearest.
    """
    if not budgets:
        raise BudgetError("there is no filtered budget to choose from: export a filtered model.")
    if goal.kind == "drop":
        return _choose_by_drop(goal, measure, budgets, prefix_tokens)
    curve = {p.tokens: p for p in measure(coarse_budgets(budgets, prefix_tokens))}
    while fine := _between(goal, curve, budgets):
        curve.update((p.tokens, p) for p in measure(fine))
    return _confirmed(goal, measure, curve, budgets)


def coarse_budgets(budgets: Sequence[int], prefix_tokens: int) -> list[int]:
    """Some budgets spread evenly, ends included, at aligned row counts where there are such."""
    aligned = [k for k in budgets if (k + prefix_tokens) % _ALIGNMENT == 0] or list(budgets)
    step = max(1, (len(aligned) - 1) // (_COARSE - 2)) if len(aligned) > 1 else 1
    return sorted({budgets[0], *aligned[::step], budgets[-1]})


def _edges(goal: Goal, curve: Mapping[int, Point]) -> tuple[int | None, int | None]:
    """The largest budget that meets the goal, and the smallest above it that does not."""
    meeting = [k for k, point in curve.items() if goal.met_by(point)]
    inside = max(meeting, default=None)
    above = [k for k in curve if inside is None or k > inside]
    return inside, min(above, default=None)


def _between(goal: Goal, curve: Mapping[int, Point], budgets: Sequence[int]) -> list[int]:
    inside, outside = _edges(goal, curve)
    if inside is None or outside is None:
        return []
    gap = [k for k in budgets if inside < k < outside]
    step = max(1, len(gap) // _FINE)
    return gap[step // 2 :: step][:_FINE] if gap else []


def _confirmed(goal: Goal, measure: Measure, curve: dict[int, Point], budgets: Sequence[int]) -> Choice:
    for _ in range(_TRIES):
        inside, outside = _edges(goal, curve)
        if inside is None:
            break
        fresh = _fresh(measure, inside)
        curve[inside] = fresh
        if goal.met_by(fresh):
            beyond = _full_too(goal, fresh) if outside is None else f"; {_figures(curve[outside])} misses it"
            reason = f"{_figures(fresh)}, measured afresh: goal {goal} is met{beyond}."
            return Choice(inside, fresh, _ordered(curve), reason)
        step = max(1, len(budgets) // 100)
        lower = [k for k in budgets if k < inside]
        if lower:  # what looked good was luck: look a little lower, and at it alone
            for k in [k for k in curve if k > lower[-min(step, len(lower))] and goal.met_by(curve[k])]:
                del curve[k]
            (below,) = measure([lower[-min(step, len(lower))]])
            curve[below.tokens] = below
    best = min(curve.values(), key=lambda p: p.latency_ms)
    raise BudgetError(f"no budget meets the goal of {goal}: the nearest is {_figures(best)}. Ask for less.")


def _full_too(goal: Goal, largest: Point) -> str:
    """A remark for who needs no filter: what the full model takes follows from the speed-up over it."""
    full_ms = largest.latency_ms * largest.speedup.value
    return (
        f"; the full model meets it too ({full_ms:.2f} ms)" if goal.kind == "latency" and full_ms <= goal.value else ""
    )


def _choose_by_drop(goal: Goal, measure: Measure, budgets: Sequence[int], prefix_tokens: int) -> Choice:
    """The smallest budget whose drop is allowed, then more tokens as long as they are free."""
    allowed = [k for k in budgets if _drop_at(goal.drops, k) <= goal.value + 1e-9]
    if not allowed:
        best = max(goal.drops, key=lambda k: -goal.drops[k])
        raise BudgetError(
            f"no budget meets the goal of {goal}: the least loss is {100 * goal.drops[best]:.1f} points, at {best} "
            "tokens. Allow more, or train longer."
        )
    least = allowed[0]
    near = [k for k in allowed if least < k <= least + 2 * _ALIGNMENT]
    curve = {p.tokens: p for p in measure(sorted({*coarse_budgets(budgets, prefix_tokens), least, *near}))}
    limit = curve[least].latency_ms * _FREE
    tokens = max(k for k in (least, *near) if curve[k].latency_ms <= limit)
    curve[tokens] = fresh = _fresh(measure, tokens)
    loss = 100 * _drop_at(goal.drops, tokens)
    free = "" if tokens == least else f" ({tokens - least} more than needed, at no cost in time)"
    reason = f"{_figures(fresh)}{free}: {loss:.1f} points of top-1 lost, goal {goal} is met."
    return Choice(tokens, fresh, _ordered(curve), reason)


def _drop_at(drops: Mapping[int, float], tokens: int) -> float:
    """Loss at the largest tested budget that is no larger: more tokens are taken to lose no more."""
    tested = [k for k in drops if k <= tokens]
    return drops[max(tested)] if tested else float("inf")


def _fresh(measure: Measure, tokens: int) -> Point:
    (point,) = measure([tokens])
    return Point(point.tokens, point.latency_ms, point.speedup, fresh=True)


def _figures(point: Point) -> str:
    return f"{point.tokens} tokens ({point.latency_ms:.2f} ms, {point.speedup.value:.2f} times as fast as full)"


def _ordered(curve: Mapping[int, Point]) -> list[Point]:
    return [curve[k] for k in sorted(curve)]
