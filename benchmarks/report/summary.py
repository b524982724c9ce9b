"""Values derived from the two documents: the budget of the headline, its loss of accuracy and its speed-up.

They are written to report.json (key ``story``), so that every number in a sentence of the page can be looked up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["FILTER", "FULL", "combined_rows", "speed_from_rows", "summary_from_documents"]

Document = Mapping[str, Any]
Row = Mapping[str, Any]

FILTER: Final = "filter"
FULL: Final = "full"


def summary_from_documents(accuracy: Document | None, bench: Document | None, max_drop: float) -> dict[str, Any]:
    """Content of the headline. Rows are given by their positions in the documents.

    max_drop: largest accepted loss of mean top-1, as a fraction of 1
    """
    combined = combined_rows(accuracy, bench)
    tested = None if accuracy is None else _tested(accuracy["rows"], {row["tokens"] for row in combined}, max_drop)
    speed = None if bench is None else speed_from_rows(bench["rows"], tested["tokens"] if tested and combined else None)
    return {
        "max_drop": max_drop,
        "same_model": None if accuracy is None or bench is None else _same_model(accuracy, bench),
        "accuracy": tested,
        "speed": speed,
        "combined": combined,
        "losses": [] if accuracy is None else _losses(accuracy["rows"]),
    }


def combined_rows(accuracy: Document | None, bench: Document | None) -> list[dict[str, Any]]:
    """Accuracy and latency for each batch size and budget in both documents; empty for different models."""
    if accuracy is None or bench is None or not _same_model(accuracy, bench):
        return []
    by_tokens = {row["tokens"]: row for row in accuracy["rows"] if row["method"] == FILTER}
    full = _full(accuracy["rows"])
    found = []
    for row in bench["rows"]:
        tested = full if row["role"] == FULL else by_tokens.get(row["tokens"])
        if tested is not None:
            found.append(
                {
                    **{key: row[key] for key in ("batch", "role", "keep", "tokens", "images_per_s")},
                    "latency_ms": row["latency_ms"]["median"],
                    **{key: tested[key] for key in ("mean", "low", "high")},
                }
            )
    return found


def _tested(rows: Sequence[Row], timed: set[int], max_drop: float) -> dict[str, Any] | None:
    """The smallest filtered budget within ``max_drop`` of full; only timed budgets count where there are any."""
    full = _full(rows)
    filtered = [row for row in rows if row["method"] == FILTER and full is not None and row["tokens"] < full["tokens"]]
    if full is None or not filtered:
        return None
    common = [row for row in filtered if row["tokens"] in timed] or filtered
    within = [row for row in common if full["mean"] - row["mean"] <= max_drop + 1e-9]
    chosen = min(within, key=lambda row: row["tokens"]) if within else max(common, key=lambda row: row["mean"])
    baselines = [row for row in rows if row["method"] not in (FILTER, FULL) and row["tokens"] == chosen["tokens"]]
    return {
        "row": _place(rows, chosen),
        "full": _place(rows, full),
        "within": bool(within),
        "tokens": chosen["tokens"],
        "change": chosen["mean"] - full["mean"],
        "macs_ratio": full["macs"] / chosen["macs"],
        "baselines": [
            {"row": _place(rows, row), "method": row["method"], "behind": chosen["mean"] - row["mean"]}
            for row in sorted(baselines, key=lambda row: -row["mean"])
        ],
    }


def _losses(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of baselines with a higher mean than the filter at the same budget, the widest gap first.

    ``intervals_apart``: the two intervals do not overlap.
    """
    filtered = {row["tokens"]: row for row in rows if row["method"] == FILTER}
    baselines = [row for row in rows if row["method"] not in (FILTER, FULL) and row["tokens"] in filtered]
    ahead = [row for row in baselines if row["mean"] > filtered[row["tokens"]]["mean"]]
    return [
        {
            "row": _place(rows, row),
            "method": row["method"],
            "tokens": row["tokens"],
            "ahead": row["mean"] - filtered[row["tokens"]]["mean"],
            "intervals_apart": row["low"] > filtered[row["tokens"]]["high"],
        }
        for row in sorted(ahead, key=lambda row: filtered[row["tokens"]]["mean"] - row["mean"])
    ]


def speed_from_rows(rows: Sequence[Row], tokens: int | None = None) -> dict[str, Any] | None:
    """Per batch size the row at ``tokens``, or at the budget nearest to half the tokens."""
    filtered = [row for row in rows if row["role"] == "filtered" and row["speedup"] is not None]
    if not filtered:
        return None
    if tokens is None or tokens not in {row["tokens"] for row in filtered}:
        tokens = min(filtered, key=lambda row: (abs(row["keep"] - 0.5), row["tokens"]))["tokens"]
    gains = [
        {
            "batch": row["batch"],
            "row": _place(rows, row),
            "full": next((i for i, r in enumerate(rows) if r["role"] == FULL and r["batch"] == row["batch"]), None),
            "verdict": _verdict(row["speedup"]),
        }
        for row in sorted(filtered, key=lambda row: row["batch"])
        if row["tokens"] == tokens
    ]
    return {"tokens": tokens, "gains": gains, "warned": sum(bool(row["warnings"]) for row in rows)}


def _verdict(speedup: Mapping[str, float]) -> str:
    """``faster`` or ``slower`` where the whole confidence interval lies on that side of 1, else ``alike``."""
    if speedup["low"] > 1:
        return "faster"
    return "slower" if speedup["high"] < 1 else "alike"


def _full(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row["method"] == FULL), None)


def _place(rows: Sequence[Row], row: Row) -> int:
    return next(i for i, other in enumerate(rows) if other is row)


def _same_model(accuracy: Document, bench: Document) -> bool:
    return all(accuracy["model"][key] == bench["model"][key] for key in ("architecture", "patches"))
