"""per_image.json: budgets per image against one budget for all images, on the study's fine-tuned models.

    python -m tokfilter.benchmarks per-image WORK

WORK is the folder of the study. The test images of each seed are divided into two halves: the settings of a rule are
chosen on one and applied to the other, and the other way round, so that no image is measured with settings that were
chosen on it. Forward passes are kept in ``budgets.npz`` of a seed's folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.files import existing_file
from tokfilter.benchmarks.options import command_line, json_option, numbers_from_text, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.image_outputs import ImageOutputs, saved_outputs
from tokfilter.benchmarks.study.image_rules import RULES, Applied, applied, candidates, levels_of, oracle
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, Task
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.vit.bundle import load_bundle, model_from_bundle

__all__ = ["FIXED", "main", "rows_of_seed", "rows_of_seeds"]

FIXED: Final = "fixed"
"""One budget for all images, chosen in the same way: the cheapest that is as accurate on the other half."""


@dataclass(frozen=True)
class _Halves:
    """Mean accuracy and multiply-accumulates of one rule with some settings on each half."""

    top1: tuple[float, float]
    macs: tuple[float, float]


def rows_of_seed(outputs: ImageOutputs, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each budget and rule, the oracle last; see the schema. budgets: in tokens, of ``outputs.budgets``."""
    half = np.random.default_rng(0).permutation(len(outputs.labels)) < len(outputs.labels) // 2
    fixed = {int(k): _halves(_fixed(outputs, column), half) for column, k in enumerate(outputs.budgets)}
    offers = {FIXED: list(fixed.values())}
    for rule in RULES:
        offers[rule] = [_halves(applied(outputs, rule, settings), half) for settings in candidates(outputs, rule)]
    rows = [
        {"tokens": k, "rule": rule, **_compared(fixed[k], found)} for k in budgets for rule, found in offers.items()
    ]
    best = oracle(outputs, levels_of(outputs.scores.shape[1]))
    limit = {"cost": float(best.macs.mean() / outputs.macs[-1]), "difference": _points(outputs, best)}
    return [*rows, {"tokens": int(outputs.budgets[-1]), "rule": "oracle", **limit, "at_equal_macs": None}]


def rows_of_seeds(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of all seeds, with a list of each figure."""
    figures = ("cost", "difference", "at_equal_macs")
    return [
        {**same[0], **{name: None if any(row[name] is None for row in same) else [row[name] for row in same]
                       for name in figures}}
        for same in zip(*seeds, strict=True)
    ]  # fmt: skip


def _fixed(outputs: ImageOutputs, column: int) -> Applied:
    macs = np.full(len(outputs.labels), float(outputs.macs[column]))
    return Applied(FIXED, {}, outputs.correct[:, column], macs, np.full(len(macs), outputs.budgets[column]))


def _points(outputs: ImageOutputs, found: Applied) -> float:
    return 100 * float(found.correct.mean() - outputs.correct[:, -1].mean())


def _halves(found: Applied, half: Any) -> _Halves:
    parts = (half, ~half)
    first, second = ((float(found.correct[part].mean()), float(found.macs[part].mean())) for part in parts)
    return _Halves((first[0], second[0]), (first[1], second[1]))


def _compared(fixed: _Halves, offers: Sequence[_Halves]) -> dict[str, Any]:
    """A rule, chosen on one half and measured on the other, against a fixed budget there; means of both halves."""
    cheapest, best = [], []
    for chosen, measured in ((0, 1), (1, 0)):
        accurate = [one for one in offers if one.top1[chosen] >= fixed.top1[chosen]]
        if accurate:
            one = min(accurate, key=lambda offer: offer.macs[chosen])
            cost = one.macs[measured] / fixed.macs[measured]
            cheapest.append((cost, 100 * (one.top1[measured] - fixed.top1[measured])))
        cheap = [one for one in offers if one.macs[chosen] <= fixed.macs[chosen] * (1 + 1e-9)]
        if cheap:
            one = max(cheap, key=lambda offer: offer.top1[chosen])
            best.append(100 * (one.top1[measured] - fixed.top1[measured]))
    whole = len(cheapest) == 2
    return {
        "cost": float(np.mean([cost for cost, _ in cheapest])) if whole else None,
        "difference": float(np.mean([points for _, points in cheapest])) if whole else None,
        "at_equal_macs": float(np.mean(best)) if len(best) == 2 else None,
    }


def _outputs(work: Path, task: Task, seed: int) -> ImageOutputs:
    folder = work / task.name / f"seed-{seed}"
    bundle = load_bundle(existing_file(folder / "model.pt", "a model of `python -m tokfilter.benchmarks study WORK`"))
    model = model_from_bundle(bundle)
    images = splits_from_folder((folder if task.seeded else folder.parent) / "data").test
    budgets = levels_of(model.num_patches)
    return saved_outputs(
        folder / "budgets.npz", model, lambda: ImageDataset(images, bundle.preprocessing), budgets, _silent
    )


def _set(work: Path, task: Task, seeds: Sequence[int], log: Callable[[str], None]) -> dict[str, Any]:
    found = []
    for seed in seeds:
        log(f"{task.name}: seed {seed}")
        outputs = _outputs(work, task, seed)
        patches = outputs.scores.shape[1]
        found.append(rows_of_seed(outputs, [tokens_from_keep(keep, patches) for keep in task.budgets]))
    return {
        "name": task.name, "images": len(outputs.labels), "patches": patches,
        "macs": {str(k): int(count) for k, count in zip(outputs.budgets, outputs.macs, strict=True)},
        "scoring_macs": int(outputs.scoring), "rows": rows_of_seeds(found),
    }  # fmt: skip


def _silent(step: str, fraction: float) -> None:
    """No progress bar."""


@click.command()
@click.argument("work", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--seeds", callback=numbers_from_text, default="0,1,2", show_default=True)
@output_option(RESULTS / "per_image.json")
@json_option
def main(work: Path, seeds: list[int], output: Path, as_json: bool) -> None:
    """Compare budgets per image with one budget for all images, on the models of the study in WORK."""
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    torch.set_num_threads(1)
    sets = [_set(work, task, seeds, lambda line: click.echo(line, err=True)) for task in (DIGITS, FASHION)]
    document = {**header("per-image", command_line()), "settings": {"seeds": seeds, "halves": 2}, "sets": sets}
    lines = [_line(one["name"], row) for one in sets for row in one["rows"] if row["cost"] is not None]
    publish(document, output, as_json, lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    cost, points = np.mean(row["cost"]), np.mean(row["difference"])
    return f"{name:17} {row['tokens']:3} tokens  {row['rule']:16} {cost:.2f} of the MACs  {points:+.2f} points"
