"""The two tables of reducers: cost and accuracy at the filter's multiply-accumulates, and accuracy at its latency."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = [
    "ENGINES",
    "REDUCER_NAMES",
    "cost_table",
    "equal_latency_table",
    "reducer_table",
    "timed_engines",
    "top1_at_latency",
]

REDUCER_NAMES: Final = {
    "evit": "EViT",
    "tome": "ToMe",
    "dynamic": "DynamicViT",
    "idle": "IdleViT",
    "frequency": "frequency-aware",
}
ENGINES: Final = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_PACKAGES: Final = ("torch", "timm", "onnxruntime", "openvino")
_UNTIMED: Final = "Images per second are not measured yet."

Row = Mapping[str, Any]


def reducer_table(document: Document) -> str:
    """Every reducer at each budget of the filter: top-1, multiply-accumulates, images per second, efficiency."""
    engines = timed_engines(document)
    full = next(row for row in document["rows"] if row["method"] == "full")
    columns = [f"images/s, {ENGINES[name]}" for name in engines]
    columns += [f"efficiency, {ENGINES[name]}" for name in engines]
    lines = [line("filter's tokens", "reducer", "its budget", "top-1, %", "MMACs", *columns), rule(5 + len(columns))]
    lines.append(_cost_line(full, "every token", full, engines))
    rows = [row for row in document["rows"] if row["method"] == "filter" or "budget" in row]
    for k in _budgets(document):
        lines += [_cost_line(row, _name(row), full, engines) for row in rows if row["tokens"] == k]
    what = f"{document['data']['name']}; intervals: {document['settings']['interval']}."
    timing = _timing(document["settings"]["speed"]) if engines else _UNTIMED
    note = f"{what} {timing} {_absences(document)}{provenance(document, _PACKAGES)}"
    return "\n".join([*lines, "", note])


def equal_latency_table(document: Document) -> str:
    """Top-1 of every reducer at the latency of the filter, for each engine."""
    engines = timed_engines(document)
    if not engines:
        return _UNTIMED
    filtered = [row for row in document["rows"] if row["method"] == "filter"]
    filtered.sort(key=lambda row: -int(row["tokens"]))
    lines = [line("engine", "reducer", *(f"{row['tokens']} tokens" for row in filtered)), rule(2 + len(filtered))]
    batch = document["settings"]["speed"]["batch"]
    full = next(row for row in document["rows"] if row["method"] == "full")
    for engine in engines:
        every = 1e3 * batch / full["images_per_s"][engine]
        times = [f"{every / row['speedup'][engine]['value']:.1f} ms" for row in filtered]
        lines.append(line(ENGINES[engine], "latency of the filter", *times))
        lines.append(line("", "**token filter**", *(_interval(row["top1"]) for row in filtered)))
        for name in dict.fromkeys(row["method"] for row in document["curve"]):
            curve = [row for row in document["curve"] if row["method"] == name]
            found = [top1_at_latency(curve, engine, row["speedup"][engine]["value"]) for row in filtered]
            cells = ["–" if top1 is None else _interval(top1) for top1 in found]
            lines.append(line("", REDUCER_NAMES[name], *cells))
    what = f"{document['data']['name']}, top-1 in % at the filter's latency for a batch of {batch}; intervals: "
    note = "A dash: slower than the filter there at every budget that was measured."
    where = provenance(document, _PACKAGES)
    return "\n".join([*lines, "", f"{what}{document['settings']['interval']}. {note} {where}"])


def top1_at_latency(curve: Sequence[Row], engine: str, speedup: float) -> list[float] | None:
    """Top-1 of each seed at the latency of the full model over ``speedup``; None where every measured budget is slower.

    The largest measured budget that is not slower, and from there a straight line in latency to the next larger one.
    Latencies are relative to the full model's, measured in pairs; images per second of different rows were not.
    """
    timed = sorted((row for row in curve if engine in row.get("speedup", {})), key=lambda row: int(row["tokens"]))
    latencies = [1 / row["speedup"][engine]["value"] for row in timed]
    wanted = 1 / speedup
    fast = [place for place, latency in enumerate(latencies) if latency <= wanted]
    if not fast:
        return None
    below, above = fast[-1], min(fast[-1] + 1, len(timed) - 1)
    near, far = latencies[below], latencies[above]
    part = (wanted - near) / (far - near) if far > near else 0.0
    return [low + part * (high - low) for low, high in zip(timed[below]["top1"], timed[above]["top1"], strict=True)]


def cost_table(document: Document) -> str:
    """Images per second and efficiency of every reducer at the filter's multiply-accumulates, without accuracy."""
    rows: dict[tuple[str, int], dict[str, Row]] = {}
    for row in document["rows"]:
        rows.setdefault((row["method"], row["tokens"]), {})[row["runtime"]] = row
    cost = {key: next(iter(found.values()))["macs"] for key, found in rows.items()}
    full = next(key for key in rows if key[0] == "full")
    filtered = {tokens: macs for (method, tokens), macs in cost.items() if method == "filter"}
    engines = [name for name in ENGINES if name in rows[full]]
    columns = [f"images/s, {ENGINES[name]}" for name in engines]
    columns += [f"efficiency, {ENGINES[name]}" for name in engines]
    lines = [line("filter's tokens", "reducer", "its budget", "GMACs", *columns), rule(4 + len(columns))]
    for k, at in [(full[1], cost[full]), *sorted(filtered.items(), reverse=True)]:
        for key in rows:
            nearest = min(filtered.values(), key=lambda macs: abs(macs - cost[key]))
            if (key == full) if k == full[1] else (key != full and nearest == at):
                lines.append(_rates_line(k, key, rows[key], cost[key], cost[full], engines))
    settings, absent = document["settings"], {row["method"] for row in document["absent"] if row["method"] != "full"}
    missing = f"Not there: {', '.join(REDUCER_NAMES.get(name, name) for name in sorted(absent))}. " if absent else ""
    what = f"`{document['model']}`, random weights; medians of {settings['rounds']} rounds. {_timing(settings)}"
    return "\n".join([*lines, "", f"{what} {missing}{provenance(document, _PACKAGES)}"])


def _rates_line(
    k: int, key: tuple[str, int], found: Mapping[str, Row], macs: int, full: int, engines: Sequence[str]
) -> str:
    name = {"full": "every token", "filter": "**token filter**"}.get(key[0]) or REDUCER_NAMES[key[0]]
    rates = [f"{found[engine]['images_per_s']:.1f}" if engine in found else "–" for engine in engines]
    efficiency = ["" if key[0] == "full" or e not in found else _efficiency(found[e], full / macs) for e in engines]
    return line(str(k), name, str(key[1]), f"{macs / 1e9:.2f}", *rates, *efficiency)


def _efficiency(row: Row, ratio: float) -> str:
    low, middle, high = (row["speedup"][name] / ratio for name in ("low", "value", "high"))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _cost_line(row: Row, name: str, full: Row, engines: Sequence[str]) -> str:
    rates, speedups = row.get("images_per_s", {}), row.get("speedup", {})
    ratio = full["macs"] / row["macs"]
    efficiency = [f"{speedups[e]['value'] / ratio:.2f}" if e in speedups and row is not full else "" for e in engines]
    return line(
        str(row["tokens"]),
        name,
        str(row.get("budget", row["tokens"])),
        _interval(row["top1"]),
        f"{row['macs'] / 1e6:.2f}",
        *(f"{rates[e]:.0f}" if e in rates else "–" for e in engines),
        *efficiency,
    )


def _interval(top1: Sequence[float]) -> str:
    mean, half = mean_and_half_width(top1)
    return f"{100 * mean:.1f}" + ("" if half is None else f" ({100 * (mean - half):.1f} to {100 * (mean + half):.1f})")


def _name(row: Row) -> str:
    return REDUCER_NAMES[row["method"]] if "budget" in row else "**token filter**"


def _budgets(document: Document) -> list[int]:
    return sorted({row["tokens"] for row in document["rows"] if row["method"] == "filter"}, reverse=True)


def timed_engines(document: Document) -> list[str]:
    """The engines in which every row of the filter was timed."""
    timed = [row["images_per_s"] for row in document["rows"] if row["method"] == "filter" and "images_per_s" in row]
    return [name for name in ENGINES if timed and all(name in rates for rates in timed)]


def _timing(speed: Mapping[str, Any]) -> str:
    return (
        f"Batch {speed['batch']}, {speed['threads']} thread, fp32; efficiency is the speed-up over the full model, "
        "divided by the ratio of multiply-accumulates."
    )


def _absences(document: Document) -> str:
    """The budgets that reducers cannot reach, in words."""
    budgets: dict[str, list[str]] = {}
    for row in document.get("absent", []):
        budgets.setdefault(REDUCER_NAMES[row["method"]], []).append(str(row["tokens"]))
    parts = "; ".join(f"{name} at {', '.join(tokens)}" for name, tokens in budgets.items())
    return f"Not there, because even the smallest budget costs more: {parts}. " if parts else ""
