"""recipe_search.json: candidates for the default recipe, compared on images held out of every training.

    python -m tokfilter.benchmarks recipe-search WORK

No test image is read. 10,000 images are held out of the backbone's training, labels, filter and fine-tuning: on
Fashion-MNIST a sixth of the training images, on digits-in-scenes scenes of a fifth of the training digits and of
columns of the photographs that no other scene shows. So each set has a backbone of its own here.

Each candidate is the default recipe of ``tokfilter train`` with some settings changed. Backbones, labels, models and
finished rows are kept in ``WORK/recipe-search`` by the candidate's name, so an interrupted run continues. A folder of
another recipe is refused.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import torch

from tokfilter.benchmarks.options import command_line, json_option, numbers_from_text, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.fashion import write_fashion
from tokfilter.benchmarks.study.scenes import write_scenes
from tokfilter.benchmarks.study.seed_run import Rows, SeedRun, has_rows, rows_from_recipe
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, StudyConfig, Task
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import Progress, quiet
from tokfilter.train.recipe_file import recipe_from_source, text_from_recipe

__all__ = ["CANDIDATES", "SETS", "main"]

HELD_OUT: Final = 10_000

CANDIDATES: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "neighbours": ("filter.neighbours=true",),
    "budgets from 35 %": ("finetune.min_keep=0.35",),
    "no global context": ("filter.global_context=0",),
    "ranking, no global context": ("filter.objective=ranking", "filter.global_context=0"),
    "threshold, no global context": ("filter.objective=threshold", "filter.global_context=0"),
    "ranking": ("filter.objective=ranking",),
    "threshold": ("filter.objective=threshold",),
    "not distilled": ("finetune.distill=0",),
    "learning rate 3e-4": ("finetune.lr=3e-4",),
    "2,000 labels, 400 steps": ("labels.limit=2000", "filter.epochs=13"),
}
"""Name -> settings that differ from the default recipe's, as ``recipe_config.py`` has it."""


def _write_digits(folder: Path, seed: int, config: StudyConfig, progress: Progress, wheels: Path) -> None:
    write_scenes(folder, seed, config.train, HELD_OUT, progress=progress, splits=("fit", "held-out"))


def _write_fashion(folder: Path, seed: int, config: StudyConfig, progress: Progress, wheels: Path) -> None:
    write_fashion(folder, progress=progress, held_out=HELD_OUT, seed=seed)


SETS: Final = {
    DIGITS.name: replace(DIGITS, write=_write_digits),
    FASHION.name: replace(FASHION, write=_write_fashion, seeded=True),
}
"""The study's data sets, with held-out training images in place of the test images."""


def _folder(work: Path, name: str, seed: int) -> Path:
    return work / "recipe-search" / name / f"seed-{seed}"


def _rows(work: Path, task: Task, seed: int, candidate: str) -> Rows:
    torch.set_num_threads(1)
    folder = _folder(work, task.name, seed)
    run = SeedRun(task, task.config, seed, folder / "data", folder, quiet)
    return rows_from_recipe(run, candidate, CANDIDATES[candidate])


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Choice(list(SETS)), multiple=True, help="Default: both.")
@click.option("--seeds", callback=numbers_from_text, default="0", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Seeds at once, a core each.")
@click.option(
    "--candidate",
    "names",
    type=click.Choice(list(CANDIDATES)),
    multiple=True,
    default=tuple(CANDIDATES)[:2],
    show_default=True,
    help="May be repeated.",
)
@click.option("--present", is_flag=True, help="Take the rows that are there; train nothing.")
@output_option(RESULTS / "recipe_search.json")
@json_option
def main(
    work: Path,
    data: tuple[str, ...],
    seeds: list[int],
    jobs: int,
    names: tuple[str, ...],
    present: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Compare candidates for the default recipe on held-out training images: an hour of one core for a seed."""
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    check_work_folder(work / "recipe-search", text_from_recipe(recipe_from_source("default")), "recipe.json")
    tasks = [task for name, task in SETS.items() if name in data or not data]
    chosen = {(task.name, seed): _chosen(work, task.name, seed, names, present) for seed in seeds for task in tasks}
    if lacking := [task.name for task in tasks if not any(chosen[task.name, seed] for seed in seeds)]:
        raise DataError(f"{work} has no rows of {lacking[0]}: leave --present out to train its models.")
    sets: list[dict[str, Any]] = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = {of: pool.submit(_rows_of_seed, work, *of, candidates) for of, candidates in chosen.items()}
        for task in tasks:
            rows = [row for seed in seeds for row in pending[task.name, seed].result()]
            sets.append({"name": task.name, "rows": rows})
    settings = {"seeds": seeds, "held_out": HELD_OUT, "candidates": {name: list(CANDIDATES[name]) for name in names}}
    document = {**header("recipe-search", command_line()), "settings": settings, "sets": sets}
    publish(document, output, as_json, (_line(one["name"], row) for one in sets for row in one["rows"]))


def _chosen(work: Path, name: str, seed: int, names: tuple[str, ...], present: bool) -> tuple[str, ...]:
    """The candidates of a seed; with ``present`` those that have rows."""
    folder = _folder(work, name, seed)
    return tuple(candidate for candidate in names if not present or has_rows(folder, candidate))


def _rows_of_seed(work: Path, name: str, seed: int, candidates: tuple[str, ...]) -> Rows:
    """The rows of every candidate, one after the other: they share the backbone and the labels."""
    task = SETS[name]
    return [
        {"candidate": candidate, "seed": seed, **{key: row[key] for key in ("tokens", "correct", "images", "top1")}}
        for candidate in candidates
        for row in _rows(work, task, seed, candidate)
    ]


def _line(name: str, row: Mapping[str, Any]) -> str:
    return f"{name:17} {row['candidate']:28} seed {row['seed']}  {row['tokens']:3} tokens  top-1 {row['top1']:.2%}"
