"""README's tables, from the JSON in ``results``: ``python -m tokfilter.benchmarks.readme`` after a new measurement.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; a test compares README with this module.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tokfilter.files import atomic_path

__all__ = ["TABLES", "readme_with_tables"]

_ROOT: Final = Path(__file__).parent.parent
_RESULTS: Final = Path(__file__).parent / "results"

Document = Mapping[str, Any]

_METHODS: Final = {
    "full": "full model",
    "filter": "**delta-loss filter**",
    "resolution": "smaller image, as many tokens",
    "norm": "largest norm",
    "centre": "centre",
    "random": "random",
}


def _accuracy(document: Document) -> str:
    """Top-1 in percent by method and budget, mean (least to greatest over seeds)."""
    rows = document["rows"]
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    cells = {(row["method"], row["tokens"]): row for row in rows}
    lines = [_line("tokens kept", *(str(budget) for budget in budgets)), _rule(len(budgets) + 1)]
    for method, name in _METHODS.items():
        found = [cells.get((method, budget)) for budget in budgets]
        lines.append(_line(name, *("" if row is None else _percent(row) for row in found)))
    lines.append(_line("multiply-accumulates (filter)", *(_million(cells, budget) for budget in budgets)))
    seeds = len(document["settings"]["seeds"])
    return "\n".join([*lines, "", f"Mean of {seeds} seeds (least to greatest). {_provenance(document)}"])


def _percent(row: Document) -> str:
    return f"{100 * row['mean']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _million(cells: Mapping[tuple[str, int], Document], budget: int) -> str:
    row = cells.get(("filter", budget)) or cells[("full", budget)]
    return f"{row['macs'] / 1e6:.2f} M"


def _speed(document: Document) -> str:
    """Latency of full and filtered, the speed-up with its interval, and what multiply-accumulates predict."""
    comparison = document["comparisons"][0]
    lines = [_line("batch", "tokens", "median ms", "speed-up", "predicted", "reached"), _rule(6)]
    for row in comparison["rows"]:
        filtered = row["speedup"] is not None and row["role"] == "filtered"
        speedup = "{value:.2f} ({low:.2f} to {high:.2f})".format(**row["speedup"]) if filtered else ""
        predicted = f"{row['predicted_speedup']:.2f}" if filtered else ""
        reached = f"{row['reached']:.2f}" if filtered else ""
        latency = f"{row['latency_ms']['median']:.1f}"
        lines.append(_line(str(row["batch"]), str(row["tokens"]), latency, speedup, predicted, reached))
    name, threads = comparison["model"]["architecture"], comparison["settings"]["threads"]
    what = f"`{name}`, random weights, ONNX Runtime on {threads} CPU threads, fp32, 95 % intervals."
    return "\n".join([*lines, "", f"{what} {_provenance(document)}"])


def _provenance(document: Document) -> str:
    machine, date = document["machine"], document["created"][:10]
    names = ("torch", "timm", "onnxruntime")
    versions = ", ".join(f"{name} {document['versions'][name]}" for name in names if name in document["versions"])
    return f"{machine['cpu']}, {machine['cores']} cores, {versions}; {date}; `{document['command']}`."


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


TABLES: Final[dict[str, tuple[str, Callable[[Document], str]]]] = {
    "accuracy": ("accuracy.json", _accuracy),
    "speed": ("runtime.json", _speed),
}
"""Name in README -> (file of results, how it is written)."""


def readme_with_tables(text: str, results: Path = _RESULTS) -> str:
    """``text`` with every table written anew. Raises KeyError for a table that nobody writes."""

    def written(match: re.Match[str]) -> str:
        file, write = TABLES[match["name"]]
        document = json.loads((results / file).read_text(encoding="utf-8"))
        return f"{match['start']}\n\n{write(document)}\n\n{match['end']}"

    pattern = r"(?P<start><!-- table: (?P<name>\w+) -->).*?(?P<end><!-- end of table -->)"
    return re.sub(pattern, written, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite README.md."""
    readme = _ROOT / "README.md"
    text = readme_with_tables(readme.read_text(encoding="utf-8"))
    with atomic_path(readme) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
