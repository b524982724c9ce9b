"""Tables of docs/cpu.md."""

from typing import Any, Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["cpu_engines_table", "cpu_figures_table"]

_PACKAGES: Final = ("torch", "onnxruntime", "openvino")
_NAMES: Final = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def cpu_engines_table(document: Document) -> str:
    """One line per engine, precision, batch size and budget."""
    heads = (
        "engine",
        "batch",
        "tokens",
        "median ms",
        "images/s",
        "over every token",
        "efficiency",
        "over ONNX Runtime fp32",
        "over PyTorch eager, every token",
    )
    lines = [line(*heads), rule(len(heads))]
    tokens = str(document["model"]["patches"])
    for row in document["baseline"]:
        median = f"{row['latency_ms']['median']:.1f}"
        lines.append(
            line("PyTorch eager fp32", str(row["batch"]), tokens, median, f"{row['images_per_s']:.1f}", *[""] * 4)
        )
    lines += [_engine_line(row) for row in document["rows"]]
    absent = [f"{_name(row)}: {row['reason']}" for row in document["absent"]]
    settings, features = document["settings"], document["machine"]["cpu_features"] or ["no known instructions"]
    load = document["conditions"]["before"]["load_average"]
    busy = f" Other programs were running (load average {load:.1f})." if load is not None and load > 0.5 else ""
    what = (
        f"`{document['model']['architecture']}`, {settings['threads']} threads; {', '.join(features)}. Medians over "
        f"interleaved rounds of the ratio within a round, 95 % intervals.{busy} {provenance(document, _PACKAGES)}"
    )
    return "\n".join([*lines, "", what, *(f"\nNot measured: {reason}" for reason in absent)])


def cpu_figures_table(document: Document) -> str:
    """What was to be reached, and what was measured."""
    lines = [line("figure", "wanted", "measured", ""), rule(4)]
    marks = {True: "✓", False: "✗", None: ""}
    for figure in document["figures"]:
        measured = "not measured" if figure["measured"] is None else f"{figure['measured']:.2f}"
        lines.append(line(figure["name"], figure["wanted"], measured, marks[figure["met"]]))
    return "\n".join(lines)


def _name(row: Any) -> str:
    return f"{_NAMES[row['engine']]} {row['precision']}"


def _engine_line(row: Any) -> str:
    return line(
        _name(row),
        str(row["batch"]),
        str(row["tokens"]),
        f"{row['latency_ms']['median']:.1f}",
        f"{row['images_per_s']:.1f}",
        "" if row["speedup"] is None else _interval(row["speedup"]),
        "" if row["efficiency"] is None else f"{row['efficiency']:.2f}",
        "" if row["over_first"] is None else _interval(row["over_first"]),
        _interval(row["over_baseline"]),
    )


def _interval(found: Any) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
