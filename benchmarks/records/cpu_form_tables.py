"""Tables of the forms of a graph in ONNX Runtime on a CPU."""

from typing import Any, Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["forms_table", "options_table", "profile_table"]

_PACKAGES: Final = ("onnxruntime",)


def forms_table(document: Document) -> str:
    """One line per step, added to those above it: speed-up over the traced graph."""
    cases = [(tokens, batch) for tokens in ("full", "half") for batch in _batches(document["forms"])]
    names = list(dict.fromkeys(row["name"] for row in document["forms"]))
    lines = [line("graph", *(f"{tokens}, batch {batch}" for tokens, batch in cases)), rule(1 + len(cases))]
    for name in names:
        found = {(row["tokens"], row["batch"]): row for row in document["forms"] if row["name"] == name}
        lines.append(line(name if name == names[0] else f"+ {name}", *(_speedup(found[case]) for case in cases)))
    return _with_source(lines, document)


def options_table(document: Document) -> str:
    """One line per session option: speed-up over the defaults."""
    batches = _batches(document["options"])
    lines = [line("session option", *(f"batch {batch}" for batch in batches)), rule(1 + len(batches))]
    for name in dict.fromkeys(row["name"] for row in document["options"]):
        found = {row["batch"]: row for row in document["options"] if row["name"] == name}
        lines.append(line(f"`{name}`", *(_speedup(found[batch]) for batch in batches)))
    return _with_source(lines, document)


def profile_table(document: Document) -> str:
    """Milliseconds by kind of node with every token and with half of them, and their ratios."""
    batches = _batches(document["profiles"])
    found = {(row["tokens"], row["batch"]): row["ms"] for row in document["profiles"]}
    heads = [f"{what}, batch {batch}" for batch in batches for what in ("full, ms", "half, ms", "ratio")]
    lines = [line("nodes", *heads), rule(1 + len(heads))]
    for kind in found["full", batches[0]]:
        lines.append(
            line(kind, *(cell for b in batches for cell in _cells(found["full", b][kind], found["half", b][kind])))
        )
    sums = {case: sum(ms.values()) for case, ms in found.items()}
    lines.append(line("sum", *(cell for b in batches for cell in _cells(sums["full", b], sums["half", b]))))
    macs = document["macs"]["full"] / document["macs"]["half"]
    products = ", ".join(f"{row['ms']:.2f} ms with {row['rows']} rows" for row in document["products"])
    return _with_source(lines, document, f"MAC ratio {macs:.3f}. One product with a matrix from memory: {products}.")


def _batches(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["batch"] for row in rows})


def _speedup(row: dict[str, Any]) -> str:
    found = row["speedup"]
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _cells(full: float, half: float) -> tuple[str, str, str]:
    return f"{full:.2f}", f"{half:.2f}", f"{full / half:.2f}" if half else "-"


def _with_source(lines: list[str], document: Document, note: str = "") -> str:
    threads = f"{document['threads']} thread{'s' * (document['threads'] > 1)}"
    what = f"`{document['architecture']}`, {threads}, {document['clock']}; medians of ratios in the same round."
    return "\n".join([*lines, "", f"{note} {what} {provenance(document, _PACKAGES)}".strip()])
