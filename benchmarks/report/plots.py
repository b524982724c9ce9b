"""Line plots as inline SVG (matplotlib). Colours and font come from the page's CSS: light, dark and print.

``report.svg`` adapts matplotlib's output, ``report.labels`` finds room for texts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from tokfilter.benchmarks.report.labels import Labels, Place, shortened, spread
from tokfilter.benchmarks.report.series import Axis, Reference, Series
from tokfilter.benchmarks.report.svg import COLOURS, svg_from_figure

__all__ = ["CUT", "STYLE", "figure_from_series", "limits_from_series", "line_plot"]

SIZE: Final = (5.0, 3.6)
"""Inches of 72 units. Small, so that the text stays readable when a phone scales the plot down."""

SMALL_SIZE: Final = (4.0, 3.1)

_LINE: Final = 15.0  # height of a line of text, in points

_BESIDE: Final = tuple(
    Place((3 * side, 8 * up), {1: "left", -1: "right"}[side], {1: "bottom", -1: "top"}[up])
    for up in (-1, 1)
    for side in (1, -1)
)
CUT: Final = "Arrows mark intervals that go on outside the plot"
"""In the text for screen readers of a plot with such intervals."""

_AT_TOP: Final = (Place((6, 0), "left", "top"), Place((-6, 0), "right", "top"))
_AT_BOTTOM: Final = (Place((6, 2), "left", "bottom"), Place((-6, 2), "right", "bottom"))

STYLE: Final[Any] = {
    "svg.fonttype": "none", "text.parse_math": False,
    "font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.edgecolor": COLOURS["rule"], "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["rule"], "xtick.labelcolor": COLOURS["muted"], "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0, "axes.grid": True, "axes.grid.axis": "y", "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 2, "lines.markersize": 6.5,
    "axes.titlelocation": "left", "axes.labelpad": 6, "legend.frameon": False,
}  # fmt: skip


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
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure, cut = figure_from_series(series, x, y, reference, small)
        return svg_from_figure(figure, name, f"{title}. {CUT}." if cut else title)


def figure_from_series(
    series: Sequence[Series], x: Axis, y: Axis, reference: Reference | None = None, small: bool = False
) -> tuple[Figure, bool]:
    """The plot before it becomes SVG, and whether an interval far wider than the values was cut: an arrow shows it.

    To be called, and drawn, in ``matplotlib.rc_context(STYLE)``.
    """
    series = [replace(item, name=shortened(item.name)) for item in series]
    width, height = SMALL_SIZE if small else SIZE
    names = sum(bool(item.name) for item in series)
    figure = Figure(figsize=(width, max(height, (names * _LINE + 90) / 72)), layout="constrained")
    axes = figure.add_subplot()
    for item in series:
        _draw(axes, item)
    low, high = limits_from_series(series)
    bottom, top = max(axes.dataLim.y0, low), min(axes.dataLim.y1, high)
    if top > bottom:
        margin = 0.05 * (top - bottom)
        axes.set_ylim(bottom - margin, top + margin)
    _frame(axes, x, y)
    if reference is not None:
        _refer(axes, reference)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # texts are placed in this layout
    _fit_names(axes, series, x)
    return figure, _write(Labels(axes), series, y, reference)


def limits_from_series(series: Sequence[Series]) -> tuple[float, float]:
    """Largest range of the y axis: the values, and half of their range or of their size on either side.

    An interval of 45 around a speed-up of 2 would press all other values onto one line.
    """
    values = np.array([y for item in series if not item.bound for y in item.y], dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return -math.inf, math.inf
    room = 0.5 * max(float(np.ptp(values)), float(np.abs(values).max())) or math.inf
    return float(values.min()) - room, float(values.max()) + room


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


def _frame(axes: Axes, x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.label)
    # A horizontal y label above the axis is easier to read, and leaves more width for the data.
    axes.set_title(y.label, fontsize=12, color=COLOURS["muted"], pad=12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x.write(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y.write(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if y.zero:
        axes.set_ylim(bottom=0)


def _fit_names(axes: Axes, series: Sequence[Series], x: Axis) -> None:
    """Leave room for the names left of the lines, in a plot whose size is known."""
    values = sorted({float(value) for item in series for value in item.x})
    width = (values[-1] - values[0]) or abs(values[0]) or 1.0
    text = max(_text_width(axes, item.name, item.strong) for item in series) + 20
    # Names take a part of the plot's width: room / (width + room) = text / plot.
    per_point = width / (_size(axes)[0] - text - 14)
    axes.set_xlim(values[0] - text * per_point, values[-1] + 14 * per_point)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(values, x, 46 * per_point)))


def _size(axes: Axes) -> tuple[float, float]:
    """Width and height of the data area, in points."""
    box = axes.get_window_extent()
    return float(box.width) * 72 / axes.figure.dpi, float(box.height) * 72 / axes.figure.dpi


def _ticks(values: Sequence[float], axis: Axis, gap: float) -> list[float]:
    """The measured values at least ``gap`` apart, or round numbers."""
    low, high = values[0], values[-1]
    if not axis.measured:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        inside = [float(tick) for tick in ticks if low <= tick <= high]
        return inside if len(inside) > 1 else sorted({low, high})
    kept = [high]
    for value in reversed(values[:-1]):
        if kept[-1] - value >= gap:
            kept.append(value)
    return kept if low in kept or len(kept) == 1 else [*kept[:-1], low]


def _refer(axes: Axes, reference: Reference) -> None:
    """The line, and room above and below it for its label."""
    axes.axhline(reference.y, color=COLOURS["ink"], linewidth=1, linestyle=(0, (1.5, 2)), zorder=2.5)
    bottom, top = axes.get_ylim()
    room = (top - bottom) * 0.1
    axes.set_ylim(min(bottom, reference.y - room), max(top, reference.y + room))


def _text_width(axes: Axes, text: str, bold: bool) -> float:
    """Points that a name takes in matplotlib's font, which is wider than most fonts of a page."""
    drawn = axes.text(0, 0, text, fontweight="bold" if bold else "normal")
    width = float(drawn.get_window_extent().width) * 72 / axes.figure.dpi
    drawn.remove()
    return width


def _write(labels: Labels, series: Sequence[Series], y: Axis, reference: Reference | None) -> bool:
    """Names first: a plot without one of its notes can still be read. Returns whether an interval was cut."""
    _name(labels, series)
    for item in series:
        labels.avoid(item.x, item.y)
        if item.low is not None and item.high is not None and not item.band:
            for x, low, high in zip(item.x, item.low, item.high, strict=True):
                labels.avoid([x, x], [low, high])
    if reference is not None:
        _write_reference(labels, reference)
    cut = [_mark_cut(labels, item, y) for item in series if not item.band]  # the edge of a band is a line of its own
    for item in series:
        for note, place in zip(item.notes, zip(item.x, item.y, strict=True), strict=False):
            labels.write(note, place, _BESIDE, color=COLOURS[item.colour], fontsize=10)
    return any(cut)


def _name(labels: Labels, series: Sequence[Series]) -> None:
    """Write each name left of its line, moved apart where lines meet."""
    named = [item for item in series if item.name]
    ends = [min(zip(item.x, item.y, strict=True)) for item in named]
    low, high = labels.axes.get_ylim()
    gap = (high - low) * _LINE / _size(labels.axes)[1]
    places = spread([y for _, y in ends], gap, low + gap / 2, high - gap / 2)
    beside = Place((-11, 0), "right", "center_baseline")
    for item, (x, _), place in zip(named, ends, places, strict=True):
        weight = "bold" if item.strong else "normal"
        labels.put(item.name, (x, place), beside, color=COLOURS[item.colour], fontweight=weight)


def _write_reference(labels: Labels, reference: Reference) -> None:
    left, right = labels.axes.get_xlim()
    for x, across in ((right, "right"), (left, "left")):
        places = (Place((0, 4), across, "bottom"), Place((0, -4), across, "top"))
        if labels.write(reference.label, (x, reference.y), places, color=COLOURS["ink"], fontsize=11):
            return


def _mark_cut(labels: Labels, item: Series, y: Axis) -> bool:
    """An arrow where an interval or a bound goes on outside the plot, with its end where there is room.

    Returns whether there is one.
    """
    found = False
    bottom, top = labels.axes.get_ylim()
    lows, highs = (item.y, item.y) if item.bound else (item.low or (), item.high or ())
    for ends, edge, marker, places in ((highs, top, "^", _AT_TOP), (lows, bottom, "v", _AT_BOTTOM)):
        for x, end in zip(item.x, ends, strict=False):
            if (end > edge) if marker == "^" else (end < edge):
                colour = COLOURS[item.colour]
                labels.axes.plot([x], [edge], marker=marker, color=colour, markersize=7, clip_on=False, zorder=5)
                labels.write(y.write(float(f"{end:.3g}")), (x, edge), places, color=colour, fontsize=10)
                found = True
    return found
