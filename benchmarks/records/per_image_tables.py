"""The table of budgets per image."""

from collections.abc import Mapping
from typing import Any, Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["SHOWN", "per_image_table"]

SHOWN: Final = {
    "fixed": "one budget for all, chosen in the same way",
    "score threshold": "scores above a threshold",
    "sigmoid mass": "share of the sigmoids of the scores",
    "probability": "second pass below a probability",
    "oracle": "oracle",
}
"""Rule -> its name in the table. The document also has softmax mass, margin and entropy."""


def per_image_table(document: Document) -> str:
    """Cost and accuracy of every rule against each fixed budget."""
    lines = [line("set", "against", "rule", "MACs", "top-1, points", "points at equal MACs"), rule(6)]
    for one in document["sets"]:
        lines += [_line(one["name"], row) for row in one["rows"] if row["rule"] in SHOWN]
    seeds = len(document["settings"]["seeds"])
    note = f"Mean of {seeds} seeds (95 %, Student's t). A dash: no settings qualify in every half of every seed. "
    return "\n".join([*lines, "", note + provenance(document, ("torch", "timm"))])


def _line(name: str, row: Mapping[str, Any]) -> str:
    cost = _interval(row["cost"], "{:.2f}")
    points = (_interval(row[figure], "{:+.2f}") for figure in ("difference", "at_equal_macs"))
    return line(name, f"{row['tokens']} tokens", SHOWN[row["rule"]], cost, *points)


def _interval(values: list[float] | None, form: str) -> str:
    if values is None:
        return "–"
    mean, half = mean_and_half_width(values)
    return form.format(mean) + ("" if half is None else f" ({form} to {form})".format(mean - half, mean + half))
