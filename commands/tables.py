"""Tables of measurements and accuracies in the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["engine_name", "print_accuracy", "print_comparison", "print_curve", "print_scenarios", "print_similarity"]

_FIGURES: Final = {
    "SingleStream": "ms at p90",
    "MultiStream": "ms at p99",
    "Offline": "images/s",
    "Server": "images/s",
}
"""Scenario -> unit of the metric that MLPerf reports for it."""

_WIDE: Final = 96
"""Width of a terminal from which on all columns are shown; JSON always has them."""


def print_comparison(document: Mapping[str, Any]) -> None:
    """Print the rows of bench.json, the break-even budgets and the notes."""
    console = _console()
    _print_rows(console, document["rows"], bool(document.get("against")))
    console.print(_conditions(document["settings"]), style="dim")
    for engine in document.get("engines", []):
        console.print(f"\n{engine_name(engine['settings'])}, in the same rounds")
        _print_rows(console, engine["rows"], bool(document.get("against")))
    _print_against(console, document.get("against", []))
    for point in document["break_even"]:
        console.print(point["sentence"])
    for engine in document.get("engines", []):
        for point in engine["break_even"]:
            console.print(f"{engine_name(engine['settings'])}, {point['sentence'][0].lower()}{point['sentence'][1:]}")
    if document.get("cost_model"):
        console.print(document["cost_model"]["sentence"])
    for note in document["notes"]:
        console.print(note, style="dim")


def engine_name(settings: Mapping[str, Any]) -> str:
    """An engine with its provider and precision."""
    provider = f" {settings['provider']}" if settings["provider"] else ""
    return f"{settings['engine']}{provider} {settings['precision']}"


def _print_rows(console: Any, rows: Sequence[Mapping[str, Any]], against: bool) -> None:
    columns = _columns(has_power=any(row["power"] for row in rows), wide=console.width >= _WIDE)
    if any("over_first" in row for row in rows):
        columns["over the\nfirst engine"] = _over_first
        if console.width < _WIDE:
            del columns["p99"], columns["images/s"]
    if against:
        columns |= {"over the\nbest other": _best_other, "its\nefficiency": _best_efficiency}
    if any(row.get("gpu_ms") for row in rows):
        columns["in + compute\n+ out"] = _stages
    table = _table(*columns)
    for i, row in enumerate(rows):
        if i and row["batch"] != rows[i - 1]["batch"]:
            table.add_section()
        table.add_row(*(text(row) for text in columns.values()))
    console.print(table)


def _over_first(row: Mapping[str, Any]) -> str:
    speedup = row["over_first"]
    return f"{speedup['value']:.2f}× [{speedup['low']:.2f} {speedup['high']:.2f}]"


def _print_against(console: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the engines that keep every token, measured in the same rounds."""
    if not rows:
        return
    table = _table("batch", "engine", "median", "cv", "images/s", "stages")
    for row in rows:
        latency = row["latency_ms"]
        figures = (f"{latency['median']:.2f}", f"{latency['cv']:.1%}{'!' if row['warnings'] else ''}")
        table.add_row(
            str(row["batch"]), row["engine"], *figures, f"{row['images_per_s']:.1f}", _stages(row) or "none: CPU"
        )
    console.print(table)


def _stages(row: Mapping[str, Any]) -> str:
    """Medians of host to device, compute, device to host; empty on a CPU."""
    gpu = row.get("gpu_ms")
    names = ("H2D Latency", "GPU Compute Time", "D2H Latency")
    return " + ".join(f"{gpu[name]['median']:.2f}" for name in names) if gpu else ""


def _best_other(row: Mapping[str, Any]) -> str:
    best = row.get("best_other")
    return "" if best is None else f"{best['speedup']['value']:.2f}× {best['engine']}"


def _best_efficiency(row: Mapping[str, Any]) -> str:
    efficiency = (row.get("best_other") or {}).get("efficiency")
    return "" if efficiency is None else f"{efficiency:.0%}"


def _conditions(settings: Mapping[str, Any]) -> str:
    """Settings of the measurement in one line."""
    count = settings["threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    graph = "on" if settings["cuda_graph"] else "off"
    stages = f"; stage times {settings['stages']}" if "stages" in settings else ""
    return (
        f"milliseconds per batch; {engine_name(settings)}{threads}; transfers {settings['transfers']}; "
        f"CUDA graph {graph}{stages}; speed-up with its {settings['confidence']:.0%} interval"
    )


def print_scenarios(document: Mapping[str, Any]) -> None:
    """Print the rows of scenario.json: MLPerf's metric first, then latency and throughput."""
    table = _table("scenario", "tokens", "metric", "median ms", "p99 ms", "images/s", "valid")
    for row in document["rows"]:
        latency = row["latency"]
        unit = _FIGURES[row["scenario"]]
        valid = "" if row["valid"] is None else "yes" if row["valid"] else "no"
        others = (f"{latency['median']:.2f}", f"{latency['p99']:.2f}", f"{row['images_per_s']:.1f}")
        table.add_row(row["scenario"], str(row["tokens"]), f"{row['value']:.2f} {unit}", *others, valid)
    console = _console()
    console.print(table)
    sources = sorted({row["source"] for row in document["rows"]})
    notes = sorted({note for row in document["rows"] for note in row["notes"]})
    for note in [f"queries issued by: {', '.join(sources)}", *notes]:
        console.print(note, style="dim")


def print_curve(document: Mapping[str, Any]) -> None:
    """Print the curve of tune.json as bars, the selected budget marked, the reason of the choice, the cost model."""
    points, choice, cost = document["curve"], document["choice"], document.get("cost_model")
    predicted = _predicted(cost, choice["batch"])
    table = _table("tokens", "median ms", *(["model ms"] if predicted else []), "speed-up", "")
    slowest = max(point["latency_ms"] for point in points)
    for point in points:
        chosen = point["tokens"] == choice["tokens"]
        bar = "━" * max(1, round(40 * point["latency_ms"] / slowest))
        style = "bold green" if chosen else "" if point["remeasured"] else "dim"
        table.add_row(
            f"{point['tokens']}{' <' if chosen else ''}",
            f"{point['latency_ms']:.2f}",
            *([f"{predicted[point['tokens']]:.2f}"] if predicted else []),
            f"{point['speedup']['value']:.2f}×",
            bar,
            style=style,
        )
    console = _console()
    console.print(table)
    console.print(choice["reason"])
    if cost:
        console.print(cost["sentence"])


def _predicted(cost: Mapping[str, Any] | None, batch: int) -> dict[int, float]:
    """Budget -> latency of the cost model at a batch; empty where it does not fit."""
    if not cost or not cost["fits"]:
        return {}
    return {point["tokens"]: point["predicted_ms"] for point in cost["model"]["points"] if point["batch"] == batch}


def print_accuracy(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of accuracy.json, or of a bundle's training record."""
    table = _table("method", "tokens", "top-1", "interval")
    for row in rows:
        mean = row["mean"] if "mean" in row else row["top1"]
        table.add_row(
            row.get("method", "filter"), str(row["tokens"]), f"{mean:.2%}", f"{row['low']:.2%} to {row['high']:.2%}"
        )
    _console().print(table)


def print_similarity(rows: Sequence[Mapping[str, Any]], patches: int) -> None:
    """Print rows of similarity.json, or of a bundle's training record."""
    by_class = any(row["truth"] == "classes" for row in rows)
    extra = [*(["same neighbour"] if by_class else []), *(["same class"] if rows[0]["agree"] is not None else [])]
    table = _table("method", "tokens", "cosine", "recall@1", "interval", *extra)
    for row in rows:
        cells = [f"{row['same']:.2%}"] if by_class else []
        cells += [f"{row['agree']:.2%}"] if row["agree"] is not None else []
        interval = f"{row['low']:.2%} to {row['high']:.2%}"
        name = "full" if row["tokens"] == patches else "filter"
        table.add_row(name, str(row["tokens"]), f"{row['cosine']:.4f}", f"{row['recall']:.2%}", interval, *cells)
    console = _console()
    console.print(table)
    truth = "of its class" if by_class else "the full model's nearest"
    console.print(f"recall@1: the nearest neighbour among the other images is {truth}", style="dim")


def _columns(has_power: bool, wide: bool) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Heading -> text of a cell, for a row of bench.json."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "batch": lambda row: str(row["batch"]),
        "tokens": lambda row: str(row["tokens"]),
        "median": lambda row: f"{row['latency_ms']['median']:.2f}",
        "p90": lambda row: f"{row['latency_ms']['p90']:.2f}",
        "p95": lambda row: f"{row['latency_ms']['p95']:.2f}",
        "p99": lambda row: f"{row['latency_ms']['p99']:.2f}",
        "cv": lambda row: f"{row['latency_ms']['cv']:.1%}{'!' if row['warnings'] else ''}",
        "images/s": lambda row: f"{row['images_per_s']:.1f}",
        "speed-up": _speedup,
        "MAC\nratio": lambda row: "" if row["mac_ratio"] is None else f"{row['mac_ratio']:.2f}×",
        "efficiency": lambda row: "" if row["efficiency"] is None else f"{row['efficiency']:.0%}",
        "J/image": _joules,
    }
    hidden = set() if wide else {"p90", "p95"}
    if not has_power:
        hidden.add("J/image")
    elif not wide:
        hidden |= {"p99", "images/s"}
    return {name: text for name, text in columns.items() if name not in hidden}


def _speedup(row: Mapping[str, Any]) -> str:
    speedup = row["speedup"]
    return "" if speedup is None else f"{speedup['value']:.2f}× [{speedup['low']:.2f} {speedup['high']:.2f}]"


def _joules(row: Mapping[str, Any]) -> str:
    joules = (row["power"] or {}).get("joules_per_image", {})
    return "\n".join(f"{name} {value:.3f}" for name, value in joules.items())


def _table(*names: str) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in names:
        left = name in ("", "scenario", "method", "engine")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def _console() -> Any:
    from tokfilter.commands.terminal import Terminal

    return Terminal()
