"""label_losses.json: what labels that need no class cost in accuracy, on the study's models.

    python -m tokfilter.benchmarks label-losses WORK

WORK is the folder of the study, whose backbones and rows of the filter are the start. The filter is trained again on
labels by another loss (``train/image_loss.py``), on the same images with the same settings, and the backbone is
fine-tuned again from the same weights: with the class labels as before, or by distillation alone. Finished rows are
kept in WORK, so an interrupted run continues.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import torch

from tokfilter.artifacts.files import existing_file
from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.options import command_line, json_option, numbers_from_text, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.methods import FILTER, LABEL_LOSSES
from tokfilter.benchmarks.study.seed_run import Rows, SeedRun, rows_from_method
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, Task
from tokfilter.runtime.measure.record import header

__all__ = ["DEFAULT", "main", "rows_of_set"]

DEFAULT: Final = ("labels: KL",)


def rows_of_set(per_seed: Sequence[Rows]) -> list[dict[str, Any]]:
    """One row for each method and budget; differences are those of the same seed.

    per_seed: rows of every method for each seed, the filter's with labels by cross-entropy among them
    """
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for rows in per_seed:
        usual = {row["tokens"]: row["top1"] for row in rows if row["method"] in ("full", FILTER)}
        for row in rows:
            name = FILTER if row["method"] == "full" else row["method"]
            points = 100 * (row["top1"] - usual[row["tokens"]])
            cells.setdefault((name, row["tokens"]), []).append({"top1": row["top1"], "points": points})
    return [
        {"method": name, "tokens": tokens, **{key: [one[key] for one in found] for key in ("top1", "points")}}
        for (name, tokens), found in cells.items()
    ]


def _set(
    work: Path, task: Task, seeds: Sequence[int], methods: Sequence[str], log: Callable[[str], None]
) -> dict[str, Any]:
    per_seed = []
    for seed in seeds:
        folder = work / task.name / f"seed-{seed}"
        existing_file(folder / "backbone.pt", "a model of `python -m tokfilter.benchmarks study WORK`")
        data = (folder if task.seeded else folder.parent) / "data"
        run = SeedRun(task, task.config, seed, data, folder, _silent)
        rows: Rows = []
        for method in (FILTER, *methods):
            rows += rows_from_method(run, method)
            log(f"{task.name}: seed {seed}, {method}")
        per_seed.append(rows)
    return {"name": task.name, "images": per_seed[0][0]["images"], "rows": rows_of_set(per_seed)}


def _silent(step: str, fraction: float) -> None:
    """No progress bar."""


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seeds", callback=numbers_from_text, default="0,1,2", show_default=True)
@click.option(
    "--method",
    "methods",
    type=click.Choice(list(LABEL_LOSSES)),
    multiple=True,
    default=DEFAULT,
    show_default=True,
    help="May be repeated.",
)
@output_option(RESULTS / "label_losses.json")
@json_option
def main(work: Path, seeds: list[int], methods: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Train the filter on labels that need no class, on the study's models in WORK: half an hour of one core."""
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    torch.set_num_threads(1)
    sets = [_set(work, task, seeds, methods, lambda line: click.echo(line, err=True)) for task in (FASHION, DIGITS)]
    document = {**header("label-losses", command_line()), "settings": {"seeds": seeds, "threads": 1}, "sets": sets}
    publish(document, output, as_json, (_line(one["name"], row) for one in sets for row in one["rows"]))


def _line(name: str, row: Mapping[str, Any]) -> str:
    top1, points = (mean_and_half_width(row[key])[0] for key in ("top1", "points"))
    return f"{name:17} {row['method']:14} {row['tokens']:3} tokens  top-1 {top1:.1%}, {points:+.2f} points"
