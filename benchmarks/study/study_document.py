"""The accuracy study's document: one row for each method and budget, from the rows of every seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.accuracy_document import interval_name, model_card, row_from_members
from tokfilter.benchmarks.options import PROGRAM
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS, equal_budgets, filtered_model, reduced_model
from tokfilter.benchmarks.study.methods import (
    ABLATIONS,
    BEFORE,
    FILTER,
    LONG_SPECIALISTS,
    LONGER,
    MAIN,
    REDUCERS,
    SPECIALISTS,
)
from tokfilter.benchmarks.study.seed_run import Rows
from tokfilter.benchmarks.study.tasks import StudyConfig, Task
from tokfilter.runtime.measure.record import header
from tokfilter.vit.bundle import load_bundle

__all__ = ["document_from_rows", "study_command"]


def document_from_rows(
    task: Task, config: StudyConfig, per_seed: Mapping[int, Rows], model: Path, command: str
) -> dict[str, Any]:
    """accuracy.json of one data set.

    per_seed: seed -> its rows
    model: a bundle of the study, for the model's facts
    """
    bundle, every_row = load_bundle(model), [row for rows in per_seed.values() for row in rows]
    curve = [row for row in every_row if "tokens" not in row]
    every_row = [row for row in every_row if "tokens" in row]
    card = model_card(bundle)
    before = [row["top1"] for row in every_row if row["method"] == BEFORE]
    after = [row for row in every_row if row["method"] != BEFORE]
    parts = {
        "curve": [{**row, "tokens": row["budget"]} for row in curve if row["method"] in OTHER_REDUCERS],
        "longer": [row for row in after if row["method"] in (*LONGER, LONG_SPECIALISTS)],
        "ablations": _ablations(per_seed.values()),
    }
    document = {
        **header("accuracy", command),
        "model": card,
        "data": {"name": task.name, "images": every_row[0]["images"], "classes": card["classes"], "part": "test"},
        "settings": {
            "seeds": list(per_seed),
            "interval": interval_name(len(per_seed)),
            BEFORE: before,
            "threads": 1,  # of each seed's process
            **asdict(config),
        },
        "rows": _joined([row for row in after if row["method"] in ("full", *MAIN)], card["patches"]),
    }
    document |= {name: _joined(rows, card["patches"]) for name, rows in parts.items() if rows}
    absent = _absent(bundle, [row["tokens"] for row in document["rows"] if row["method"] == FILTER], curve)
    return document | ({"absent": absent} if absent else {})


def _absent(bundle: Bundle, budgets: Sequence[int], curve: Rows) -> Rows:
    """The budgets of the filter at which a reducer of the study costs more, with the reason."""
    filtered = filtered_model(bundle.architecture, bundle.filter_config)
    return [
        {"method": name, "tokens": k, "reason": reason}
        for name in dict.fromkeys(row["method"] for row in curve if row["method"] in OTHER_REDUCERS)
        for k, reason in equal_budgets(reduced_model(bundle.architecture, name), filtered, budgets)[1].items()
    ]


def study_command(
    task: Task, seeds: Sequence[int], ablation_seeds: Sequence[int] | None, methods: Sequence[str]
) -> str:
    """The command that gives the rows of one data set again."""
    command = f"{PROGRAM} study WORK --data {task.name} --seeds {_text(seeds)}"
    if tuple(methods) == REDUCERS:
        return f"{command} --reducers"
    command += "" if ablation_seeds is None else f" --ablation-seeds {_text(ablation_seeds)}"
    return f"{command} --longer" if any(method in LONGER for method in methods) else command


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "''"


def _joined(members: Rows, num_patches: int) -> Rows:
    """One row for each method and budget from those of every seed."""
    cells: dict[tuple[str, int, int], Rows] = {}
    for row in members:
        cells.setdefault((row["method"], row["tokens"], row["macs"]), []).append(row)
    own = {cell: {"budget": rows[0]["budget"]} if "budget" in rows[0] else {} for cell, rows in cells.items()}
    return [row_from_members(*cell, rows, num_patches) | own[cell] for cell, rows in cells.items()]


def _ablations(per_seed: Iterable[Rows]) -> Rows:
    """Rows of ablations, after the unchanged filter's rows of the same seeds."""
    ablated = [rows for rows in per_seed if any(row["method"] in (*ABLATIONS, SPECIALISTS) for row in rows)]
    unchanged = [{**row, "method": FILTER} for rows in ablated for row in rows if row["method"] in ("full", FILTER)]
    return unchanged + [row for rows in ablated for row in rows if row["method"] in (*ABLATIONS, SPECIALISTS)]
