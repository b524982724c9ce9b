"""Line plots as inline SVG (matplotlib). Colours and font come from the page's CSS: light, dark and print.

``report.svg`` adapts matplotlib's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from tokfilter.benchmarks.report.svg import COLOURS, svg_from_figure

__all__ = ["Axis", "Reference", "Series", "line_plot", "spread"]

SIZE: Final = (5.0, 3.6)
"""Inches of 72 units. Small, so that the text stays readable when a phone scales the plot down."""

SMALL_SIZE: Final = (4.0, 3.1)

_PLOT: Final = (305.0, 188.0)  # width and height of the data area, in points

_RC: Final[Any] = {
    "svg.fonttype": "none", "text.parse_math": False,
    "font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.edgecolor": COLOURS["rule"], "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["rule"], "xtick.labelcolor": COLOURS["muted"], "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0, "axes.grid": True, "axes.grid.axis": "y", "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 2, "lines.markersize": 6.5,
    "axes.titlelocation": "left", "axes.labelpad": 6, "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One line with its label.

    x, y: as many numbers each; y may hold NaN for a gap
    low, high: ends of the error bars or of the band, as many numbers
    colour: name of a CSS variable in COLOURS
    marker: matplotlib's, "" for none
    notes: a label for each point, written below it
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
    """A reference level: a thin horizontal line with a label above it on one side."""

    y: float
    label: str
    side: str = "right"


def line_plot(
    name: str,
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    reference: Reference | None = None,
    small: bool = False,
) -> str:
    """Draw lines with labels at their left ends. Returns an SVG element.

    name: unique on the page
    title: text for screen readers
    small: smaller plot for three in a row, with text of the same size
    """
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        figure = Figure(figsize=SMALL_SIZE if small else SIZE, layout="constrained")
        axes = figure.add_subplot()
        for item in series:
            _draw(axes, item)
        _frame(axes, series, x, y)
        if reference is not None:
            _refer(axes, reference)
        _label(axes, series)
        return svg_from_figure(figure, name, title)


def _draw(axes: Axes, item: Series) -> None:
    colour, order = COLOURS[item.colour], 4 if item.strong else 3
    width = 2.6 if item.strong else 1.5
    if item.low is not None and item.high is not None:
        if item.band:
            axes.fill_between(item.x, item.low, item.high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        else:
            axes.vlines(item.x, item.low, item.high, color=colour, linewidth=width * 0.8, alpha=0.75, zorder=order)
    style = (0, (4, 3)) if item.dashed else "-"
    axes.plot(item.x, item.y, color=colour, linestyle=style, linewidth=width, marker=item.marker, zorder=order)
    for note, place in _apart(item):
        axes.annotate(
            note, place, xytext=(3, -8), textcoords="offset points", ha="left", va="top", color=colour, fontsize=10
        )


def _apart(item: Series) -> list[tuple[str, tuple[float, float]]]:
    """Notes with their positions, without those that would overlap the note before."""
    if not item.notes:
        return []
    gap = 0.2 * (max(item.x) - min(item.x))
    chosen: list[tuple[str, tuple[float, float]]] = []
    for note, place in zip(item.notes, zip(item.x, item.y, strict=True), strict=True):
        if not chosen or place[0] - chosen[-1][1][0] >= gap:
            chosen.append((note, place))
    return chosen


def _frame(axes: Axes, series: Sequence[Series], x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.label)
    # A horizontal y label above the axis is easier to read, and leaves more width for the data.
    axes.set_title(y.label, fontsize=12, color=COLOURS["muted"], pad=12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x.write(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y.write(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    values = sorted({float(value) for item in series for value in item.x})
    width = (values[-1] - values[0]) or abs(values[0]) or 1.0
    text = max(_text_width(item.name, item.strong) for item in series) + 16
    # Labels take a part of the plot's width: room / (width + room) = text / plot.
    per_point = width / (_PLOT[0] - text - 14)
    axes.set_xlim(values[0] - text * per_point, values[-1] + 14 * per_point)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(values, x, 46 * per_point)))
    if y.zero:
        axes.set_ylim(bottom=0)


def _ticks(values: Sequence[float], axis: Axis, gap: float) -> list[float]:
    """The measured values at least ``gap`` apart, or round numbers."""
    low, high = values[0], values[-1]
    if not axis.measured:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        inside = [float(tick) for tick in ticks if low <= tick <= high]
        return inside if len(inside) > 1 else [low, high]
    kept = [high]
    for value in reversed(values[:-1]):
        if kept[-1] - value >= gap:
            kept.append(value)
    return kept if low in kept or len(kept) == 1 else [*kept[:-1], low]


def _refer(axes: Axes, reference: Reference) -> None:
    axes.axhline(reference.y, color=COLOURS["ink"], linewidth=1, linestyle=(0, (1.5, 2)), zorder=2.5)
    right = reference.side == "right"
    bottom, top = axes.get_ylim()
    room = (top - bottom) * 20 / _PLOT[1]  # for its label, when it is the topmost of all
    axes.set_ylim(min(bottom, reference.y - room / 2), max(top, reference.y + room))
    axes.annotate(
        reference.label, (0.995 if right else 0.005, reference.y), xycoords=("axes fraction", "data"), xytext=(0, 5),
        textcoords="offset points", ha="right" if right else "left", color=COLOURS["ink"], fontsize=11,
    )  # fmt: skip


def _text_width(text: str, bold: bool) -> float:
    """Points that a name takes, roughly: the page's font is not known here."""
    return len(text) * (7.0 if bold else 6.4)


def _label(axes: Axes, series: Sequence[Series]) -> None:
    """Write each name left of its line, moved apart where lines meet."""
    named = [item for item in series if item.name]
    ends = [min(zip(item.x, item.y, strict=True)) for item in named]
    low, high = axes.get_ylim()
    gap = (high - low) * 16 / _PLOT[1]
    places = spread([y for _, y in ends], gap, low + gap / 2, high - gap / 2)
    for item, (x, _), place in zip(named, ends, places, strict=True):
        axes.annotate(
            item.name, (x, place), xytext=(-11, 0), textcoords="offset points", ha="right", va="center_baseline",
            color=COLOURS[item.colour], fontweight="bold" if item.strong else "normal", annotation_clip=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values apart until neighbours differ by ``gap``, as little as possible, inside low..high where they fit."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[float, list[int]]] = []  # (centre, members), merged while they overlap
    for index in order:
        groups.append((min(max(values[index], low), high), [index]))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (len(groups[-1][1]) + len(groups[-2][1])) / 2:
            (_, right), (_, left) = groups.pop(), groups.pop()
            members = left + right
            half = gap * (len(members) - 1) / 2
            centre = sum(values[i] for i in members) / len(members)
            groups.append((max(min(centre, high - half), low + half), members))
    placed = [0.0] * len(values)
    for centre, members in groups:
        for step, index in enumerate(members):
            placed[index] = centre + gap * (step - (len(members) - 1) / 2)
    return placed
