"""recipe_search.json: candidates for the default recipe, compared on images held out of training.

    python -m tokfilter.benchmarks recipe-search WORK

WORK is the folder of the study, whose backbones are the start. No test image is read: on Fashion-MNIST the last 10,000
of the shuffled training images are held out of labels and fine-tuning, on digits-in-scenes 10,000 new scenes of the
training digits and photographs are drawn. The backbones were trained on these images, or on these digits in other
scenes, so rows are compared with each other, not with the tables of the test images.

Each candidate is the default recipe of ``tokfilter train`` with some settings changed. Labels, models and finished rows
are kept in ``WORK/recipe-search`` by the candidate's name, so an interrupted run continues. After a change of the
recipe, remove that folder.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.files import existing_file
from tokfilter.benchmarks.options import command_line, json_option, numbers_from_text, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.recipe_config import config_of_task
from tokfilter.benchmarks.study.scenes import write_scenes
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, Task
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.train.data import Splits, images_from_folder, quiet, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.loop import RunDir
from tokfilter.train.pipeline import bundle_from_start, label_folder
from tokfilter.train.start import start_from_bundle

__all__ = ["CANDIDATES", "held_out", "main"]

HELD_OUT: Final = 10_000
_SETS: Final = (DIGITS, FASHION)

CANDIDATES: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "no global context": ("filter.global_context=0",),
    "learning rate 3e-4": ("finetune.lr=3e-4",),
    "threshold": ("filter.objective=threshold",),
    "2,000 labels, 400 steps": ("labels.limit=2000", "filter.epochs=13"),
    "not distilled": ("finetune.distill=0",),
}
"""Name -> settings that differ from the default recipe's, as ``recipe_config.py`` has it."""


def held_out(task: Task, data: Path, folder: Path, seed: int, count: int = HELD_OUT) -> Splits:
    """Training images, and in place of the test images ones that no stage after the backbone's sees.

    data: the task's images; folder: where new ones are written
    """
    train = splits_from_folder(data).train
    if not task.seeded:
        order = np.random.default_rng(seed).permutation(len(train)).tolist()
        return Splits(train.subset(sorted(order[:-count])), train.subset(sorted(order[-count:])))
    if not (folder / "complete").is_file():
        write_scenes(folder, seed + 1000, train=count, test=0)
        (folder / "complete").touch()
    return Splits(train, images_from_folder(folder / "train", train.class_names))


def _rows(work: Path, task: Task, seed: int, names: Sequence[str], log: Callable[[str], None]) -> list[dict[str, Any]]:
    folder = work / task.name / f"seed-{seed}"
    backbone = existing_file(folder / "backbone.pt", "a model of `python -m tokfilter.benchmarks study WORK`")
    own = work / "recipe-search" / task.name / f"seed-{seed}"
    splits = held_out(task, (folder if task.seeded else folder.parent) / "data", own / "data", seed)
    start = start_from_bundle(backbone, splits.train.class_names)
    datasets = (
        ImageDataset(splits.train, start.preprocessing, quiet),
        ImageDataset(splits.test, start.preprocessing, quiet),
    )
    rows = []
    for name in names:
        path = own / f"{_slug(name)}.json"
        if not path.is_file():
            config = config_of_task(task, len(splits.train), seed, CANDIDATES[name])
            run_dir = RunDir(own / "work" / _slug(name), resume=True)
            start = start_from_bundle(backbone, splits.train.class_names)  # training changes it
            labels = own / f"labels-{config.label_limit}"
            label_folder(start, splits.train, config, labels, quiet)
            bundle = bundle_from_start(start, splits, config, run_dir, labels, task.budgets, datasets)
            write_json(path, {"accuracy": bundle.training["accuracy"]})
        found = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
        rows += [{"candidate": name, "seed": seed, **row} for row in found]
        log(f"{task.name}: seed {seed}, {name}: " + " ".join(f"{row['top1']:.1%}" for row in found))
    return rows


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Choice([task.name for task in _SETS]), multiple=True, help="Default: both.")
@click.option("--seeds", callback=numbers_from_text, default="0", show_default=True)
@click.option(
    "--candidate",
    "names",
    type=click.Choice(list(CANDIDATES)),
    multiple=True,
    default=tuple(CANDIDATES)[:3],
    show_default=True,
    help="May be repeated.",
)
@output_option(RESULTS / "recipe_search.json")
@json_option
def main(
    work: Path, data: tuple[str, ...], seeds: list[int], names: tuple[str, ...], output: Path, as_json: bool
) -> None:
    """Compare candidates for the default recipe on held-out training images: an hour of one core for a seed."""
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    torch.set_num_threads(1)

    def log(line: str) -> None:
        click.echo(line, err=True)

    sets: list[dict[str, Any]] = []
    for task in _SETS:
        if task.name in data or not data:
            sets.append(
                {"name": task.name, "rows": [row for seed in seeds for row in _rows(work, task, seed, names, log)]}
            )
    settings = {"seeds": seeds, "held_out": HELD_OUT, "candidates": {name: list(CANDIDATES[name]) for name in names}}
    document = {**header("recipe-search", command_line()), "settings": settings, "sets": sets}
    publish(document, output, as_json, (_line(one["name"], row) for one in sets for row in one["rows"]))


def _line(name: str, row: Mapping[str, Any]) -> str:
    return f"{name:17} {row['candidate']:20} seed {row['seed']}  {row['tokens']:3} tokens  top-1 {row['top1']:.2%}"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
