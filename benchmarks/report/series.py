"""What a plot shows: lines, axes, a reference level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Reference", "Series"]


@dataclass(frozen=True)
class Series:
    """One line with its label.

    x, y: as many numbers each; y may hold NaN for a gap
    low, high: ends of the error bars or of the band, as many numbers
    colour: name of a CSS variable in COLOURS
    marker: matplotlib's, "" for none
    bound: a limit of other values, such as a percentile: like the end of an interval, it may lie outside the plot
    notes: a label for each point, written beside it where there is room
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marker: str = "o"
    dashed: bool = False
    band: bool = False
    strong: bool = False
    bound: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """Label with its unit, and format of the numbers.

    measured: ticks at measured values instead of round numbers
    zero: the axis starts at 0
    """

    label: str
    write: Callable[[float], str]
    measured: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Reference:
    """A reference level: a thin horizontal line with a label on it."""

    y: float
    label: str
