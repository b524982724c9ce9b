"""Accuracy at budgets in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["print_accuracy"]


def print_accuracy(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of accuracy.json, or of a bundle's training record."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("method", "tokens", "top-1", "interval"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        mean = row["mean"] if "mean" in row else row["top1"]
        table.add_row(
            row.get("method", "filter"), str(row["tokens"]), f"{mean:.2%}", f"{row['low']:.2%} to {row['high']:.2%}"
        )
    Console(highlight=False).print(table)
