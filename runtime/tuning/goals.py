"""What a budget shall achieve: a goal, what one measurement of a budget says about it, and the choice that is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokfilter.errors import DataError
from tokfilter.runtime.measure.statistics import Interval

__all__ = ["Choice", "Goal", "Pace", "Point"]


@dataclass(frozen=True)
class Point:
    """One measured budget.

    latency_ms, full_ms: medians of this budget and of the full model, taken in turn in the same rounds
    speedup: of this budget over full, pair by pair
    fresh: whether it was measured after the choice was made
    """

    tokens: int
    latency_ms: float
    full_ms: float
    speedup: Interval
    fresh: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast the machine was while a budget was sought: the full model's latency, first, last and between."""

    first_ms: float
    last_ms: float
    least_ms: float
    most_ms: float

    @property
    def change(self) -> float:
        """Of the last over the first, as a share: 0.1 is ten percent slower."""
        return self.last_ms / self.first_ms - 1

    @property
    def spread(self) -> float:
        """Of the slowest over the fastest, as a share."""
        return self.most_ms / self.least_ms - 1


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

    def least_speedup(self, full_ms: float) -> float:
        """The speed-up over full that achieves it while the full model takes ``full_ms``."""
        return full_ms / self.value if self.kind == "latency" else self.value

    def __str__(self) -> str:
        words = {"latency": f"at most {self.value:g} ms", "speedup": f"at least {self.value:g} times as fast as full"}
        return words.get(self.kind, f"at most {100 * self.value:g} points of top-1 lost")


@dataclass(frozen=True)
class Choice:
    """The budget that was found, every measurement on the way (the last one of a budget counts), and the pace."""

    tokens: int
    point: Point
    curve: list[Point]
    reason: str
    pace: Pace
