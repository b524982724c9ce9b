"""The plots of the page, and the data that each shows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Final

from tokfilter.benchmarks.report.numbers import STYLES
from tokfilter.benchmarks.report.plots import line_plot
from tokfilter.benchmarks.report.series import Axis, Reference, Series
from tokfilter.benchmarks.report.summary import FILTER, FULL

__all__ = ["METHODS", "accuracy_plots", "combined_plots", "method_name", "speed_plots"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Look:
    name: str
    colour: str
    marker: str
    strong: bool = False


METHODS: Final = {
    FILTER: _Look("token filter", "series-0", "o", strong=True),
    "random": _Look("random tokens", "series-1", "v"),
    "centre": _Look("centre tokens", "series-2", "s"),
    "norm": _Look("largest norm", "series-3", "^"),
    "resolution": _Look("lower resolution", "series-4", "D"),
    "evit": _Look("class-attention pruning", "series-5", "P"),
    "tome": _Look("token merging", "series-6", "X"),
    FULL: _Look("full model", "ink", "*"),
}
"""Methods in the order of the page. A method that is not listed here is shown under its own name."""

_OTHERS: Final = ("series-7", "series-5", "series-6")
_BATCHES: Final = ("series-0", "series-2", "series-3", "series-4", "series-5", "series-6", "series-7")

_KEPT: Final = Axis("patch tokens kept", STYLES["fraction"], measured=True)
_TOP1: Final = Axis("top-1 accuracy", STYLES["level"])


def method_name(method: str) -> str:
    """Display name of a method."""
    return METHODS[method].name if method in METHODS else method


def accuracy_plots(rows: Sequence[Row]) -> dict[str, str]:
    """Top-1 against budget and against multiply-accumulates, all methods. Returns name -> SVG."""
    full = next((row for row in rows if row["method"] == FULL), None)
    level = None if full is None else Reference(full["mean"], "full model")
    groups = _by_method(rows)
    budgets = [_tested(look, group, "keep") for look, group in groups if look.name != METHODS[FULL].name]
    unit, name = (1e9, "G") if max(row["macs"] for row in rows) >= 1e9 else (1e6, "M")
    alone = len(groups) == 2  # only then is there room for a label at each point
    work = [_tested(look, group, "macs", 1 / unit, budgets=look.strong and alone) for look, group in groups]
    work = [replace(item, name="") if item.name == METHODS[FULL].name and level else item for item in work]
    axis = Axis(f"multiply-accumulates per image ({name})", STYLES["tick"])
    return {
        "budget": line_plot(
            "budget", "Top-1 accuracy against the fraction of tokens kept", budgets, _KEPT, _TOP1, level
        ),
        "macs": line_plot("macs", "Top-1 accuracy against multiply-accumulates per image", work, axis, _TOP1, level),
    }


def combined_plots(rows: Sequence[Row]) -> dict[str, str]:
    """Top-1 against measured latency at the smallest batch. Returns name -> SVG."""
    batch = min(row["batch"] for row in rows)
    found = [row for row in rows if row["batch"] == batch]
    groups = [
        _tested(METHODS[method], group, "latency_ms", budgets=method == FILTER)
        for method, role in ((FILTER, "filtered"), (FULL, "full"))
        if (group := [row for row in found if row["role"] == role])
    ]
    axis = Axis(f"median latency at batch {batch} (ms)", STYLES["tick"])
    return {"latency-top1": line_plot("latency-top1", f"Top-1 accuracy against {axis.label}", groups, axis, _TOP1)}


def speed_plots(rows: Sequence[Row], cost: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Latency per batch size, throughput, speed-up and MAC ratio, against budget. Returns name -> SVG.

    cost: ``cost_model`` of bench.json; drawn with its error where it fits
    """
    batches = _by(rows, "batch")
    model = cost["model"] if cost and cost["fits"] else None
    plots = {f"latency-{batch}": _latency_plot(batch, group, model) for batch, group in batches}
    rates = [
        Series(f"batch {batch}", _column(group, "keep"), _column(group, "images_per_s"), colour)
        for (batch, group), colour in zip(batches, cycle(_BATCHES), strict=False)
    ]
    plots["throughput"] = line_plot(
        "throughput",
        "Throughput against the fraction of tokens kept",
        rates,
        _KEPT,
        Axis("images per second", STYLES["tick"], zero=True),
    )
    if any(row["speedup"] for row in rows):
        plots["speedup"] = _speedup_plot(batches)
    return plots


def _latency_plot(batch: int, rows: Sequence[Row], model: Mapping[str, Any] | None) -> str:
    latencies = [row["latency_ms"] for row in rows]
    keeps = _column(rows, "keep")
    colour = "series-0"
    series = [
        Series("p99", keeps, [item["p99"] for item in latencies], colour, marker="", dashed=True, bound=True),
        Series(
            "median", keeps, [item["median"] for item in latencies], colour, strong=True, band=True,
            low=[item["median"] for item in latencies], high=[item["p99"] for item in latencies],
        ),
    ]  # fmt: skip
    if model is not None:
        predicted = {p["tokens"]: p["predicted_ms"] for p in model["points"] if p["batch"] == batch}
        known = [(row["keep"], predicted[row["tokens"]]) for row in rows if row["tokens"] in predicted]
        error = model["error"]
        series.append(
            Series(
                "cost model", [x for x, _ in known], [y for _, y in known], "muted", marker="", dashed=True, band=True,
                low=[y * (1 - error) for _, y in known], high=[y * (1 + error) for _, y in known],
            )
        )  # fmt: skip
    title = f"Latency at batch {batch} against the fraction of tokens kept"
    return line_plot(
        f"latency-{batch}",
        title,
        series,
        _KEPT,
        Axis(f"batch {batch}: milliseconds", STYLES["tick"], zero=True),
        small=True,
    )


def _speedup_plot(batches: Sequence[tuple[int, Sequence[Row]]]) -> str:
    series = []
    for (batch, group), colour in zip(batches, cycle(_BATCHES), strict=False):
        measured = [row for row in group if row["speedup"] is not None]
        ends = [[row["speedup"][key] for row in measured] for key in ("value", "low", "high")]
        series.append(Series(f"batch {batch}", _column(measured, "keep"), ends[0], colour, ends[1], ends[2]))
    known = {row["keep"]: row["mac_ratio"] for _, group in batches for row in group if row["mac_ratio"]}
    if known:
        keeps = sorted(known)
        ratios = [known[keep] for keep in keeps]
        series.insert(0, Series("MAC ratio", keeps, ratios, "muted", marker="", dashed=True))
    return line_plot(
        "speedup",
        "Measured speed-up over the full model, and the ratio of multiply-accumulates",
        [item for item in series if item.x],
        _KEPT,
        Axis("speed-up over the full model", lambda value: f"{value:g}×"),
        Reference(1.0, "break-even"),
    )


def _tested(look: _Look, rows: Sequence[Row], key: str, factor: float = 1.0, budgets: bool = False) -> Series:
    """Top-1 of one method with its intervals, over one column; ``budgets`` writes the kept fraction at each point."""
    ordered = sorted(rows, key=lambda row: row[key])
    mean, low, high = (_column(ordered, name) for name in ("mean", "low", "high"))
    notes = [STYLES["fraction"](row["keep"]) for row in ordered] if budgets else []
    places = [row[key] * factor for row in ordered]
    return Series(look.name, places, mean, look.colour, low, high, look.marker, strong=look.strong, notes=notes)


def _by_method(rows: Sequence[Row]) -> list[tuple[_Look, list[Row]]]:
    groups = dict(_by(rows, "method"))
    others = [_Look(name, colour, "P") for name, colour in zip(sorted(groups.keys() - METHODS), cycle(_OTHERS))]
    looks = {**METHODS, **{look.name: look for look in others}}
    return [(look, groups[method]) for method, look in looks.items() if method in groups]


def _by(rows: Iterable[Row], key: str) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["keep"]):
        groups[row[key]].append(row)
    return sorted(groups.items())


def _column(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows]
