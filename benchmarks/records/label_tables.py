"""Markdown tables of docs/labels.md, docs/trained-vit.md and docs/frozen.md."""

from typing import Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["frozen_table", "methods_table", "selection_table", "trained_table"]

_PACKAGES: Final = ("torch",)


def methods_table(document: Document) -> str:
    """Label methods: passes, agreement with exact labels, speed."""
    lines = [line("method", "passes", "rank correlation", "kept set at 1/4", "chance", "speed-up"), rule(6)]
    for row in document["rows"]:
        least = min(row["overlap"], key=lambda overlap: overlap["tokens"])
        rank, speed = row["spearman"], row["speedup"]
        cells = [row["name"], str(row["passes"]), f"{rank['value']:.2f} ({rank['low']:.2f} to {rank['high']:.2f})"]
        cells += [f"{least['shared']:.0%}", f"{least['chance']:.0%}"]
        lines.append(line(*cells, f"{speed['value']:.1f} ({speed['low']:.1f} to {speed['high']:.1f})"))
    threads = document["settings"]["threads"]
    what = f"{document['data']['images']} training images, {threads} threads, 95 % intervals."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def selection_table(document: Document) -> str:
    """Divergence and agreement with the full model, when the tokens that labels put first are kept."""
    counts = [kept["tokens"] for kept in document["rows"][0]["kept"]]
    lines = [line("labels", "passes", *map(str, counts)), rule(2 + len(counts))]
    for row in document["rows"]:
        cells = (f"{kept['divergence']:.3f}, {kept['agree']:.1%}" for kept in row["kept"])
        lines.append(line(row["name"], str(row["passes"]), *cells))
    what = (
        f"{document['data']['name']}, {document['data']['images']} images, {document['model']['patches']} tokens: "
        "divergence from the full model in nats, and images with its first class, by tokens kept."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def trained_table(document: Document) -> str:
    """Top-1 in percent by method and budget, frozen and fine-tuned."""
    budgets = sorted({row["tokens"] for row in document["rows"]}, reverse=True)
    found: dict[str, dict[int, Document]] = {}
    for row in document["rows"]:
        name = f"{row['method']}, fine-tuned" if row["fine_tuned"] else row["method"]
        found.setdefault(name, {})[row["tokens"]] = row
    lines = [line("tokens kept", *map(str, budgets)), rule(len(budgets) + 1)]
    for name, rows in found.items():
        lines.append(line(name, *(_percent(rows[k]) if k in rows else "" for k in budgets)))
    what = f"{document['data']['name']}, {document['data']['images']} test images, one seed, Wilson intervals at 95 %."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def frozen_table(document: Document) -> str:
    """Top-1 in percent by method and budget, and the differences from the full model and from token merging."""
    budgets = sorted({row["tokens"] for row in document["rows"]}, reverse=True)
    found: dict[str, dict[int, Document]] = {}
    for row in document["rows"]:
        found.setdefault(row["method"], {})[row["tokens"]] = row
    lines = [line("tokens kept", *map(str, budgets)), rule(len(budgets) + 1)]
    for name, rows in found.items():
        lines.append(line(_FROZEN_ROWS[name], *(_percent(rows[k]) if k in rows else "" for k in budgets)))
    for other in ("full", "tome"):
        ahead = {k: row["ahead"][other] for k, row in found["frozen"].items() if other in row["ahead"]}
        cells = (" ".join(_points(*ahead[k])) if k in ahead else "" for k in budgets)
        lines.append(line(f"frozen mode minus {_FROZEN_ROWS[other]}, points", *cells))
    what = (
        f"{document['data']['name']}, {document['data']['images']} test images, one seed, 95 % intervals: Wilson; of "
        "differences for the same images. Token merging at the multiply-accumulates of the frozen mode. Training of "
        f"that mode: {document['training']['seconds'] / 60:.0f} minutes (wall-clock)."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


_FROZEN_ROWS: Final = {"full": "every token", "frozen": "frozen mode", "tome": "token merging"} | {
    "frozen, filter alone": "frozen mode without the global context"
}
"""Method of frozen.json -> its row."""


def _points(value: float, low: float, high: float) -> tuple[str, str]:
    return f"{100 * value:+.1f}", f"({100 * low:+.1f} to {100 * high:+.1f})"


def _percent(row: Document) -> str:
    return f"{100 * row['top1']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
