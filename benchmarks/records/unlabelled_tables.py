"""Tables of docs/embeddings.md: labels that need no class, and embeddings at budgets of tokens."""

from typing import Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["embeddings_table", "label_losses_table"]

_LOSSES: Final = {
    "filter": ("cross-entropy", "cross-entropy"),
    "labels: KL": ("KL", "cross-entropy"),
    "labels: cosine": ("cosine of the logits", "cross-entropy"),
    "KL throughout": ("KL", "KL alone"),
}
"""Method of label_losses.json -> the losses of labels and of fine-tuning."""

_METHODS: Final = {
    "full": "every token",
    "filter": "filter, backbone not fine-tuned",
    "tome": "token merging, not fine-tuned",
    "filter, fine-tuned": "filter, fine-tuned",
}
"""Method of embeddings.json -> its row."""


def label_losses_table(document: Document) -> str:
    """Top-1 by cross-entropy, and the differences of the other losses from it, seed by seed."""
    budgets = max(len({row["tokens"] for row in one["rows"]}) for one in document["sets"])
    lines = [line("set", "labels", "fine-tuning", *([""] * budgets)), rule(3 + budgets)]
    for one in document["sets"]:
        tokens = sorted({row["tokens"] for row in one["rows"]}, reverse=True)
        empty = [""] * (budgets - len(tokens))
        lines.append(line(one["name"], "tokens kept", "", *map(str, tokens), *empty))
        for method in dict.fromkeys(row["method"] for row in one["rows"]):
            found = {row["tokens"]: row for row in one["rows"] if row["method"] == method}
            cells = [_cell(found[k], method) for k in tokens]
            lines.append(line("", *_LOSSES[method], *cells, *empty))
    seeds = len(document["settings"]["seeds"])
    over = "One seed" if seeds == 1 else f"Means of {seeds} seeds, 95 % intervals by Student's t"
    images = ", ".join(f"{one['images']} of {one['name']}" for one in document["sets"])
    what = (
        f"First row of a set: top-1 in %; others: points against it on the same backbone. {over}; "
        f"test images: {images}."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, ('torch', 'timm'))}"])


def _cell(row: Document, method: str) -> str:
    values, form = ([100 * v for v in row["top1"]], "{:.1f}") if method == "filter" else (row["points"], "{:+.2f}")
    mean, half = mean_and_half_width(values)
    return form.format(mean) + ("" if half is None else f" ({form} to {form})".format(mean - half, mean + half))


def embeddings_table(document: Document) -> str:
    """Cosine and recall@1 by method and budget."""
    budgets = sorted({row["tokens"] for row in document["rows"]}, reverse=True)
    lines = [line("", "tokens kept", *map(str, budgets)), rule(2 + len(budgets))]
    for method in dict.fromkeys(row["method"] for row in document["rows"]):
        found = {row["tokens"]: row for row in document["rows"] if row["method"] == method}
        cosines = (f"{found[k]['cosine']:.3f}" if k in found else "" for k in budgets)
        recalls = (_recall(found[k]) if k in found else "" for k in budgets)
        lines += [line(_METHODS[method], "cosine", *cosines), line("", "recall@1, %", *recalls)]
    what = (
        f"{document['data']['name']}, {document['data']['images']} test images, one seed, 95 % intervals by Wilson. "
        "Token merging at the multiply-accumulates of the filter. Training: "
        f"{document['training']['seconds'] / 60:.0f} minutes (wall-clock)."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, ('torch', 'timm'))}"])


def _recall(row: Document) -> str:
    return f"{100 * row['recall']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
