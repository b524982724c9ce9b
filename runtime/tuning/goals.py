"""The goal of `tokfilter tune`, the measurement of one budget, and the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokfilter.errors import DataError
from tokfilter.runtime.measure.statistics import Interval

__all__ = ["ClockDrift", "Goal", "TunedBudget", "TuningPoint", "check_value"]


@dataclass(frozen=True)
class TuningPoint:
    """Measurement of one budget.

    latency_ms, full_ms: medians of this budget and of the full model, from the same interleaved rounds
    speedup: of this budget over full, from pairs of blocks
    remeasured: whether it was measured again after it had been selected
    """

    tokens: int
    latency_ms: float
    full_ms: float
    speedup: Interval
    remeasured: bool = False


@dataclass(frozen=True)
class ClockDrift:
    """Latency of the full model in the first and last measurement, and its range."""

    first_ms: float
    last_ms: float
    min_ms: float
    max_ms: float

    @property
    def change(self) -> float:
        """Last over first, minus 1: 0.1 is ten percent slower."""
        return self.last_ms / self.first_ms - 1

    @property
    def spread(self) -> float:
        """Slowest over fastest, minus 1."""
        return self.max_ms / self.min_ms - 1


@dataclass(frozen=True)
class Goal:
    """The requirement that a budget has to meet.

    kind, value: latency (at most, milliseconds per batch), speedup (at least), or drop (at most, a fraction of 1)
    drops: budget -> loss of top-1 against the full model, for a goal of kind drop
    metric: what ``drops`` are points of
    Raises DataError.
    """

    kind: Literal["latency", "speedup", "drop"]
    value: float
    drops: Mapping[int, float] = field(default_factory=dict)
    metric: Literal["top-1", "recall@1"] = "top-1"

    def __post_init__(self) -> None:
        check_value(self.kind, self.value)
        if self.kind == "drop" and not self.drops:
            raise DataError("a goal of drop requires accuracies: give --accuracy accuracy.json or --images.")

    def met_by(self, point: TuningPoint) -> bool:
        """Whether a measured budget meets the goal (latency and speed-up; a drop needs no measurement of time)."""
        return point.latency_ms <= self.value if self.kind == "latency" else point.speedup.value >= self.value

    def min_speedup(self, full_ms: float) -> float:
        """The smallest speed-up over full that meets the goal when the full model takes ``full_ms``."""
        return full_ms / self.value if self.kind == "latency" else self.value

    def __str__(self) -> str:
        words = {"latency": f"at most {self.value:g} ms", "speedup": f"at least {self.value:g} times as fast as full"}
        return words.get(self.kind, f"at most {100 * self.value:g} points of {self.metric} lost")


def check_value(kind: str, value: float) -> None:
    """Check a goal's value, before accuracies are measured. Raises DataError."""
    if not (value > 0 or (kind == "drop" and value >= 0)) or value == float("inf"):
        raise DataError(f"a goal of {kind} requires a positive number, got {value}.")


@dataclass(frozen=True)
class TunedBudget:
    """The selected budget, the measured curve (the last measurement of each budget), and the clock drift."""

    tokens: int
    point: TuningPoint
    curve: list[TuningPoint]
    reason: str
    drift: ClockDrift
