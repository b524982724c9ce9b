"""Markdown tables of gpu-proof.json, for docs/gpu.md and for the end of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["PROOF_TABLES", "int8_table", "proof_tables"]

Row = Mapping[str, Any]

_PACKAGES: Final = ("torch", "onnxruntime-gpu", "onnxruntime", "timm", "nvidia-driver")


def golden_table(document: Document) -> str:
    """Every engine that was compared with the golden tensors, its largest difference, and what was not equal."""
    rows = []
    own = any(v["step"] == "golden" for v in document["verdicts"])
    for name in dict.fromkeys((v["step"], v["engine"]) for v in document["verdicts"]):
        verdicts = [v for v in document["verdicts"] if (v["step"], v["engine"]) == name]
        passed = [v for v in verdicts if v["passed"]]
        if own and name[0] != "golden" and len(passed) == len(verdicts):
            continue  # the others were compared before they were timed: listed where that failed, or where no step did
        known = [v["largest_difference"] for v in passed if v["largest_difference"] is not None]
        classes = [v["same_top1"] for v in passed if v["same_top1"] is not None]
        kept = [v["same_indices"] for v in passed if v["same_indices"] is not None]
        rows.append(
            (
                f"`{name[1]}`",
                _numbers(v["batch"] for v in verdicts),
                _numbers(v["tokens"] for v in verdicts),
                f"{len(passed)} of {len(verdicts)}",
                f"{max(known):.2g} ({passed[0]['tolerance']:g})" if known else "",
                f"{min(classes):.0%}" if classes else "",
                f"{min(kept):.1%}" if kept else "",
            )
        )
    names = ("engine", "batch", "tokens", "passed", "largest difference (allowed)", "same first class", "same tokens")
    return _table(names, rows, document, "Engines against torch's golden tensors; random weights and images, seed 0.")


def speed_table(document: Document) -> str:
    """Full against filtered in TensorRT: compute time between device events, speed-up, efficiency."""
    rows = [
        (
            row["model"],
            str(row["batch"]),
            str(row["tokens"]),
            _time(row),
            f"{row['images_per_s']:.0f}",
            _ratio(row["speedup"], "compute"),
            _ratio(row["speedup"], "end_to_end"),
            "" if row["mac_ratio"] is None else f"{row['mac_ratio']:.2f}",
            "" if row["efficiency"] is None else f"{row['efficiency']:.2f}",
        )
        for row in document["rows"]
        if row["step"].startswith("speed-")
    ]
    names = ("model", "batch", "tokens", "ms (p90)", "images/s", "speed-up", "end to end", "MAC ratio", "efficiency")
    what = "TensorRT fp16, CUDA graph; time between device events, speed-up of it and end to end with transfers;"
    return _table(names, rows, document, f"{what} 95 % intervals.")


def native_table(document: Document) -> str:
    """The plugin's engine against native TopK and Gather."""
    rows = [
        (
            row["model"],
            row["engine"],
            str(row["batch"]),
            str(row["tokens"]),
            _time(row),
            _ratio(row["against"], "compute"),
        )
        for row in document["rows"]
        if row["step"] == "native"
    ]
    names = ("model", "engine", "batch", "tokens", "ms (p90)", "times as fast as native")
    return _table(names, rows, document, "TensorRT fp16, CUDA graph, same rounds; 95 % intervals.")


def engines_table(document: Document) -> str:
    """TensorRT, PyTorch and ONNX Runtime in the same rounds."""
    rows = [
        (
            row["model"],
            str(row["batch"]),
            str(row["tokens"]),
            row["engine"],
            _time(row),
            f"{row['end_to_end_ms']['median']:.2f}",
            _ratio(row["against"], "compute") or _ratio(row["against"], "end_to_end"),
            _ratio(row["speedup"], "compute") or _ratio(row["speedup"], "end_to_end"),
        )
        for row in document["rows"]
        if row["step"].startswith("engines-")
    ]
    names = (
        "model",
        "batch",
        "tokens",
        "engine",
        "ms (p90)",
        "end to end ms",
        "times as fast as eager",
        "full / filtered",
    )
    what = "fp16, same card, same rounds. Where an engine gives no device events the ratios are of end-to-end times;"
    return _table(names, rows, document, f"{what} 95 % intervals.")


def int8_table(document: Document) -> str:
    """int8 beside fp16 in TensorRT, and how near its logits are to PyTorch's."""
    rows = [
        (
            row["model"],
            row["precision"],
            row["engine"],
            str(row["batch"]),
            str(row["tokens"]),
            _time(row),
            f"{row['images_per_s']:.0f}",
            _ratio(row["against"], "compute"),
            _ratio(row["speedup"], "compute"),
            *_agreement(document, row),
        )
        for row in document["rows"]
        if row["step"].startswith("int8-")
    ]
    names = (
        *("model", "precision", "engine", "batch", "tokens", "ms (p90)", "images/s", "times as fast as fp16"),
        *("full / filtered", "smallest cosine", "same first class"),
    )
    what = "TensorRT, CUDA graph, same rounds; cosine and first class against torch in fp32, random weights and images;"
    return _table(names, rows, document, f"{what} 95 % intervals.")


def _agreement(document: Document, row: Row) -> tuple[str, str]:
    """The smallest cosine of the logits, and how often the first class is PyTorch's, of a timed engine."""
    for v in document["verdicts"]:
        same = (v["step"], v["batch"], v["tokens"]) == (row["step"], row["batch"], row["tokens"])
        if same and v["passed"] and v["engine"].startswith(f"{row['engine']}, {row['role']}"):
            cosine, top1 = v.get("cosine"), v["same_top1"]
            return "" if cosine is None else f"{cosine:.5f}", "" if top1 is None else f"{top1:.0%}"
    return "", ""


def attention_table(document: Document) -> str:
    """Fused attention kernels by engine."""
    rows = [
        (
            f"`{row['engine']}`",
            str(row["blocks"]),
            str(row["fused"]),
            "yes" if row["in_every_block"] else "**no**",
            str(row["nodes"]),
            ", ".join(f"`{name}`" for name in row["names"][:2]),
        )
        for row in document["attention"]
    ]
    names = ("engine", "blocks", "fused attention kernels", "in every block", "graph nodes", "names")
    return _table(names, rows, document, "Kernels of a captured CUDA graph, and layers of the engine inspector.")


def checks_table(document: Document) -> str:
    """Each step with its state, and what else was compared."""
    rows = [
        (
            f"`{step['name']}`",
            step["state"],
            "" if step["seconds"] is None else f"{step['seconds']:.0f}",
            _cell(step["reason"]),
        )
        for step in document["steps"]
    ]
    answers, memcheck = document["answers"], document["memcheck"]
    what = []
    if answers:
        equal = sum(1 for answer in answers if answer["equal"])
        what.append(f"C++ library equal to Python, bit for bit: {equal} of {len(answers)}.")
    what += [f"memcheck, `{check['engine']}`: {check['errors']} errors." for check in memcheck]
    return _table(("step", "state", "seconds", "reason"), rows, document, " ".join(what) or "Steps of the run.")


PROOF_TABLES: Final[Mapping[str, tuple[str, Callable[[Document], str]]]] = {
    "proof_golden": ("Golden tensors", golden_table),
    "proof_speed": ("Full and filtered in TensorRT", speed_table),
    "proof_native": ("Plugin and native ops", native_table),
    "proof_int8": ("int8 and fp16", int8_table),
    "proof_engines": ("TensorRT, PyTorch, ONNX Runtime", engines_table),
    "proof_attention": ("Fused attention", attention_table),
    "proof_steps": ("Steps", checks_table),
}
"""Name of a table in the pages -> (title, function that writes it)."""


def proof_tables(document: Document) -> list[tuple[str, str]]:
    """(title, table) of all tables."""
    return [(title, write(document)) for title, write in PROOF_TABLES.values()]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], document: Document, what: str) -> str:
    if not rows:
        return "Not measured in this run: see the steps."
    lines = [line(*names), rule(len(names)), *(line(*row) for row in rows)]
    return "\n".join([*lines, "", f"{what} {_where(document)}"])


def _where(document: Document) -> str:
    found = document["found"].get("tensorrt", {}).get("found")
    text = provenance(document, _PACKAGES)
    return f"{text} TensorRT {found}." if found else text


def _time(row: Row) -> str:
    times = row["compute_ms"] or row["end_to_end_ms"]
    return f"{times['median']:.3f} ({times['p90']:.3f})"


def _ratio(ratios: Mapping[str, Any] | None, name: str) -> str:
    interval = None if ratios is None else ratios[name]
    return "" if interval is None else "{value:.2f} ({low:.2f} to {high:.2f})".format(**interval)


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _cell(text: str) -> str:
    """A reason as one cell: no line break, no column, no markup of its own, at most 200 characters."""
    flat = " ".join(text.split())
    for character in "\\`*_<>[]|":
        flat = flat.replace(character, f"\\{character}")
    return flat if len(flat) <= 200 else f"{flat[:199]}…"
