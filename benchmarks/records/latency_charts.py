"""Charts of the reducers: accuracy over measured latency in each engine, one SVG file for each data set.

``python -m tokfilter.benchmarks readme`` writes them beside the pages. Each names the SHA-256 of its measurements, so
that a test finds a chart that is older than they are without comparing the output of two versions of matplotlib.
"""

import io
import json
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokfilter.artifacts.files import sha256
from tokfilter.benchmarks.records.markdown import Document
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.records.reducer_tables import ENGINES, REDUCER_NAMES, timed_engines

__all__ = ["CHARTS", "chart_from_document", "chart_of"]

CHARTS: Final = {
    "equal-latency-fashion.svg": "reducers-fashion-mnist.json",
    "equal-latency-digits.svg": "reducers-digits-in-scenes.json",
}
"""File in docs/ -> file in results."""

# Colour, marker: as in the report, on white.
_STYLES: Final = {
    "filter": ("#0067b8", "o"),
    "evit": ("#c24e00", "s"),
    "tome": ("#005a45", "^"),
    "dynamic": ("#7d2f72", "v"),
    "idle": ("#8a6a00", "D"),
    "frequency": ("#6b7480", "P"),
}
_NAMES: Final = {"filter": "token filter", **REDUCER_NAMES}
_STYLE: Final[Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "tokfilter", "font.family": "sans-serif", "font.size": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dde2e8",
    "axes.edgecolor": "#8b95a3", "legend.frameon": False, "axes.titlelocation": "left",
}  # fmt: skip

Row = dict[str, Any]


def chart_of(name: str) -> bytes:
    """The chart of that file name in docs/, from its measurements."""
    source = RESULTS / CHARTS[name]
    return chart_from_document(json.loads(source.read_text(encoding="utf-8")), sha256(source))


def chart_from_document(document: Document, digest: str) -> bytes:
    """Top-1 over milliseconds for a batch, one panel for each engine and one line for each reducer; SVG.

    digest: of the document's file, written into the chart
    """
    engines = timed_engines(document)
    data, batch = document["data"]["name"], document["settings"]["speed"]["batch"]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * len(engines), 4.3), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(engines), sharey=True, squeeze=False)[0]
        for engine, axes in zip(engines, panels, strict=True):
            _draw(axes, document, engine)
            axes.set_title(ENGINES[engine])
            axes.set_xlabel(f"ms for a batch of {batch}")
        panels[0].set_ylabel(f"top-1 in %, {data}")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=3)
        buffer = io.BytesIO()
        about = f"Accuracy of token reducers over measured latency on {data}; measurements: SHA-256 {digest}."
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": about})
    lines_of_text = buffer.getvalue().decode("utf-8").splitlines()
    return "".join(f"{text.rstrip()}\n" for text in lines_of_text).encode("utf-8")


def _draw(axes: Axes, document: Document, engine: str) -> None:
    for method, rows in _lines(document).items():
        times, top1 = _points(document, rows, engine)
        colour, marker = _STYLES[method]
        strong = method == "filter"
        axes.plot(
            times,
            top1,
            color=colour,
            marker=marker,
            label=_NAMES[method],
            linewidth=2.8 if strong else 1.4,
            markersize=7 if strong else 5,
            zorder=4 if strong else 3,
        )
    axes.set_xlim(left=0)


def _lines(document: Document) -> dict[str, list[Row]]:
    """The rows of each reducer, largest budget first; the full model is the first of the filter's."""
    lines = {"filter": [row for row in document["rows"] if row["method"] in ("full", "filter")]}
    for row in document["curve"]:
        lines.setdefault(row["method"], []).append(row)
    return {method: sorted(rows, key=lambda row: -int(row["tokens"])) for method, rows in lines.items()}


def _points(document: Document, rows: Sequence[Row], engine: str) -> tuple[list[float], list[float]]:
    """Milliseconds and mean top-1 in percent of the rows that were timed.

    The time of the full model over the speed-up: rows were measured in pairs with the full model.
    """
    full = next(row for row in document["rows"] if row["method"] == "full")
    every = 1e3 * document["settings"]["speed"]["batch"] / full["images_per_s"][engine]
    timed = [row for row in rows if engine in row.get("speedup", {})]
    times = [every / row["speedup"][engine]["value"] for row in timed]
    return times, [100 * sum(row["top1"]) / len(row["top1"]) for row in timed]
