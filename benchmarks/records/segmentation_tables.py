"""Markdown tables of docs/segmentation.md."""

from collections.abc import Sequence
from typing import Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["mask_head_table", "segmentation_table"]

_PACKAGES: Final = ("torch", "timm")


def mask_head_table(document: Document) -> str:
    """Time and peak memory of both forms of the head."""
    heading = ("masks", "batch", "dense", "token space", "less time", "dense", "token space", "less memory")
    lines = [line(*heading), rule(len(heading))]
    for row in document["rows"]:
        ms, peaks, speedup = row["ms"], row["peak_bytes"], row["speedup"]
        cells = [str(row["masks"]), str(row["batch"]), f"{ms['dense']:.0f} ms", f"{ms['tokens']:.0f} ms"]
        cells += [f"{speedup['value']:.1f} ({speedup['low']:.1f} to {speedup['high']:.1f})"]
        cells += [f"{peaks['dense'] / 1e6:.0f} MB", f"{peaks['tokens'] / 1e6:.0f} MB", f"{row['memory_ratio']:.1f}"]
        lines.append(line(*cells))
    row = document["rows"][0]
    threads = f"{row['threads']} thread{'s'[: row['threads'] > 1]}"
    difference = max(row["difference"] for row in document["rows"])
    clock = ", time on the processor" if row["clock"] == "cpu" else ""
    what = (
        f"{row['image']} x {row['image']} pixels, {(row['image'] // row['patch']) ** 2} tokens of "
        f"{row['channels']} channels, {row['width']} channels in the head, {row['precision']}, {threads}{clock}; "
        f"largest difference of the two forms {difference:.1e} of the largest logit."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def segmentation_table(document: Document) -> str:
    """mIoU in percent by method and budget; several seeds: their mean."""
    rows = document["rows"]
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    lines = [line("tokens kept", *map(str, budgets)), rule(len(budgets) + 1)]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [[row for row in rows if (row["method"], row["tokens"]) == (method, k)] for k in budgets]
        name = "every token, before fine-tuning" if method == "full" else method
        lines.append(line(name, *map(_cell, found)))
    macs = [next(row["macs"] for row in rows if row["tokens"] == k) for k in budgets]
    lines.append(line("multiply-accumulates", *(f"{count / 1e6:.1f} M" for count in macs)))
    settings = document["settings"]
    seeds = len(settings["seeds"])
    what = f"mIoU in % of {len(settings['classes'])} classes, {settings['test']} test images, "
    what += "one seed; intervals: bootstrap over images, 95 %." if seeds == 1 else f"mean of {seeds} seeds."
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def _cell(rows: Sequence[Document]) -> str:
    if not rows:
        return ""
    mean = sum(row["miou"] for row in rows) / len(rows)
    interval = f" ({100 * rows[0]['low']:.1f} to {100 * rows[0]['high']:.1f})" if len(rows) == 1 else ""
    return f"{100 * mean:.1f}{interval}"
