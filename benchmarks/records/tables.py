"""Markdown tables of the README and the docs, one function for each kind of document."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule
from tokfilter.benchmarks.records.reducer_tables import REDUCER_NAMES
from tokfilter.benchmarks.report.figures import method_name

__all__ = ["Document", "ablation_table", "accuracy_table", "drop_table", "longer_table", "speed_table"]

_PACKAGES: Final = ("torch", "timm", "onnxruntime")

FILTER: Final = "filter"


def accuracy_table(document: Document) -> str:
    """Top-1 in percent by method and budget, with its interval."""
    rows = document["rows"]
    lines = _budget_lines(rows, _percent)
    budgets, cells = _budgets(rows), _cells(rows)
    macs = (cells.get((FILTER, k)) or cells["full", k] for k in budgets)
    lines.append(line("multiply-accumulates (filter)", *(f"{row['macs'] / 1e6:.2f} M" for row in macs)))
    settings, before = document["settings"], document["settings"].get("full_before_fine_tuning")
    full = f" Full model before fine-tuning: {100 * sum(before) / len(before):.1f}." if before else ""
    what = f"{document['data']['name']}, {document['data']['images']} test images, top-1 in %; intervals: "
    return "\n".join([*lines, "", f"{what}{settings['interval']}.{full} {provenance(document, _PACKAGES)}"])


def ablation_table(document: Document) -> str:
    """Top-1 of the filter's ablations in percent; the first line is the unchanged filter."""
    rows = document["ablations"]
    lines = _budget_lines(rows, lambda row: f"{100 * row['mean']:.1f}")
    seeds = len(rows[0]["top1"])
    what = f"{document['data']['name']}, {'mean of ' if seeds > 1 else ''}{seeds} seed{'s'[: seeds > 1]}."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def longer_table(document: Document) -> str:
    """Top-1 in percent after longer fine-tuning, with intervals over seeds where there are several."""
    rows = document["longer"]
    lines = _budget_lines(rows, lambda row: _percent(row) if len(row["top1"]) > 1 else f"{100 * row['mean']:.1f}")
    interval = document["settings"]["interval"]
    what = f"{document['data']['name']}, top-1 in %; intervals: {interval}; without one: one seed."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def drop_table(document: Document) -> str:
    """Loss of top-1 against the same checkpoint with every token, paired by seed, in percentage points."""
    rows = [*document["rows"], *document.get("longer", [])]
    full = {("filter" if r["method"] == "full" else r["method"]): r for r in rows if r["keep"] == 1.0}
    lost = [_lost(row, full[row["method"]]) for row in rows if row["keep"] < 1.0 and row["method"] in full]
    lines = _budget_lines(lost, _points)
    before, interval = document["settings"]["full_before_fine_tuning"], document["settings"]["interval"]
    lines.append(line("MACs, fraction of the full model", *_mac_fractions(document, lost)))
    what = f"{document['data']['name']}, points of top-1; intervals: {interval}, of the differences."
    start = f"Before fine-tuning the full model had {100 * sum(before) / len(before):.1f} %."
    return "\n".join([*lines, "", f"{what} {start} {provenance(document, _PACKAGES)}"])


def speed_table(document: Document) -> str:
    """Latency of full and filtered, the speed-up with its interval, MAC ratio and efficiency."""
    comparison = document["comparisons"][0]
    lines = [line("batch", "tokens", "median ms", "speed-up", "MAC ratio", "efficiency"), rule(6)]
    for row in comparison["rows"]:
        filtered = row["speedup"] is not None and row["role"] == "filtered"
        speedup = "{value:.2f} ({low:.2f} to {high:.2f})".format(**row["speedup"]) if filtered else ""
        mac_ratio = f"{row['mac_ratio']:.2f}" if filtered else ""
        efficiency = f"{row['efficiency']:.2f}" if filtered else ""
        latency = f"{row['latency_ms']['median']:.1f}"
        lines.append(line(str(row["batch"]), str(row["tokens"]), latency, speedup, mac_ratio, efficiency))
    name, threads = comparison["model"]["architecture"], comparison["settings"]["threads"]
    what = f"`{name}`, random weights, ONNX Runtime on {threads} CPU threads, fp32, 95 % intervals."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


Row = Mapping[str, Any]


def _lost(row: Row, full: Row) -> Row:
    """Losses of a row, per seed, against its checkpoint with every token."""
    drops = [every - kept for every, kept in zip(full["top1"], row["top1"], strict=True)]
    return {"method": row["method"], "tokens": row["tokens"], "keep": row["keep"], "drops": drops}


def _points(row: Row) -> str:
    mean, half = mean_and_half_width(row["drops"])
    return f"{100 * mean:.1f}" + ("" if half is None else f" ({100 * (mean - half):.1f} to {100 * (mean + half):.1f})")


def _mac_fractions(document: Document, lost: Sequence[Row]) -> list[str]:
    cells = _cells(document["rows"])
    patches = document["model"]["patches"]
    return [f"{cells[FILTER, k]['macs'] / cells['full', patches]['macs']:.2f}" for k in _budgets(lost)]


def _budgets(rows: Sequence[Row]) -> list[int]:
    return sorted({row["tokens"] for row in rows}, reverse=True)


def _cells(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    return {(row["method"], row["tokens"]): row for row in rows}


def _budget_lines(rows: Sequence[Row], written: Callable[[Row], str]) -> list[str]:
    """Heading, rule, and one line per method with a cell per budget."""
    budgets, cells = _budgets(rows), _cells(rows)
    lines = [line("tokens kept", *(str(budget) for budget in budgets)), rule(len(budgets) + 1)]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [cells.get((method, budget)) for budget in budgets]
        reducer = any(row is not None and "budget" in row for row in found)
        name = REDUCER_NAMES[method] if reducer else method_name(method)
        name = f"**{name}**" if method == FILTER else name
        lines.append(line(name, *("" if row is None else written(row) for row in found)))
    return lines


def _percent(row: Row) -> str:
    return f"{100 * row['mean']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
