"""segmentation.json: mIoU of a filtered ViT with a mask head, on real digits pasted in photographs.

    python -m tokfilter.benchmarks segmentation
    python -m tokfilter.benchmarks segmentation --seeds 0,1,2 --steps 6000 --labelled 2000 --finetune-steps 2000

One backbone with a mask head is trained with every token. Its tokens get delta-loss labels with the loss of
segmentation (cross-entropy, mean over the pixels), the image's mean token in place of each, and a filter is trained on
them. From there each fill is fine-tuned alone with budgets drawn in each step, and so is the first fill with random
tokens in place of the filter's.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import click
import torch

from tokfilter.artifacts.bundle import Architecture, FilterConfig, Preprocessing
from tokfilter.artifacts.mask_config import FILLS
from tokfilter.benchmarks.options import (
    command_line,
    json_option,
    numbers_from_text,
    output_option,
    publish,
    threads_option,
)
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.scenes import SceneConfig, segmented_scenes
from tokfilter.runtime.measure.record import header
from tokfilter.train.config import TrainConfig
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning, initialise
from tokfilter.train.labels import LabelConfig, LabelMethod
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.train.mask_evaluation import MaskAccuracy, evaluate_masks
from tokfilter.train.masking import MaskConfig
from tokfilter.train.stages import run_stages
from tokfilter.train.tensor_dataset import TensorDataset, TensorImages
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.dense.fill import fill_from_name
from tokfilter.vit.macs import macs
from tokfilter.vit.mask_models import add_mask_head
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.patch import patch
from tokfilter.vit.scorers import RandomScorer

__all__ = ["BUDGETS", "CLASSES", "RESULT", "SegmentationConfig", "main", "scenes_dataset", "seed_rows"]

RESULT: Final = RESULTS / "segmentation.json"
BUDGETS: Final = (1.0, 0.7, 0.5, 0.35, 0.25)
CLASSES: Final = ("background", *map(str, range(10)))

_SIZE: Final = 48
_SCENES: Final = SceneConfig(size=_SIZE, digits=(24,), step=4, window=(48, 180))
_MEAN, _STD = 0.5, 0.5
_MASK: Final = MaskConfig("mean")
"""For labels: the image's mean token in place of the token. Zeros do not find the digit, because the place of the token
is then predicted from zeros, on a digit as on the background. Area under the ROC curve of labels for the tokens of the
digit, 12 images: mean 0.98, removed and filled from the nearest token 0.83, zeros before the position embedding 0.71,
zeros after it 0.53."""
_ARCHITECTURE: Final = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": _SIZE, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_classes": 0},
)
_PREPROCESSING: Final = Preprocessing((3, _SIZE, _SIZE), (_MEAN,) * 3, (_STD,) * 3)


@dataclass(frozen=True)
class SegmentationConfig:
    """Images and optimiser steps of one seed.

    labelled: training images that get delta-loss labels
    size: of the masks, in pixels
    labels: method of the labels
    """

    train: int = 4000
    test: int = 500
    steps: int = 1200
    labelled: int = 300
    filter_steps: int = 300
    finetune_steps: int = 300
    batch: int = 32
    size: int = _SIZE
    labels: LabelMethod = "exact"

    def train_config(self, seed: int, stages: tuple[str, ...]) -> TrainConfig:
        """Settings of some stages."""
        return TrainConfig(
            stages=stages,
            seed=seed,
            label_limit=self.labelled,
            filter_config=FilterConfig(width=32),
            labels=LabelConfig(_MASK, method=self.labels),
            backbone=FineTuning(TrainingPlan(self.steps, self.batch, lr=1e-3), smoothing=0.0),
            filter=FilterTraining(TrainingPlan(self.filter_steps, batch=64, lr=2e-3, weight_decay=0.01)),
            finetune=FineTuning(TrainingPlan(self.finetune_steps, self.batch, lr=5e-4), smoothing=0.0),
        )


def scenes_dataset(split: str, count: int, seed: int) -> TensorDataset:
    """Scenes of a split ("train", "test") with a class for each pixel [count, 48, 48]."""
    images, labels = segmented_scenes(split, count, seed, _SCENES)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - _MEAN) / _STD
    names = TensorImages(tuple(f"{split}-{i:05d}" for i in range(count)), digest)
    return TensorDataset(names, _PREPROCESSING, pixels, torch.from_numpy(labels).long(), torch.arange(count))


def new_model(seed: int, size: int, fill: str = FILLS[0]) -> FilteredViT:
    """An untrained model of the study."""
    torch.manual_seed(seed)
    backbone = create_backbone(_ARCHITECTURE)
    initialise(backbone, seed)
    model = patch(backbone, architecture=_ARCHITECTURE)
    model.drop.scorer = model.new_filter(FilterConfig(width=32))
    return add_mask_head(model, len(CLASSES), size=size, width=64, fill=fill)


def seed_rows(
    config: SegmentationConfig, seed: int, folder: Path, report: Any = lambda text: None, fills: tuple[str, ...] = FILLS
) -> Iterator[dict[str, Any]]:
    """The rows of one seed: a method at a budget each.

    folder: for labels and checkpoints, from which an interrupted run of the same settings goes on, and for model.pt of
        the first fill
    """
    data, test = (scenes_dataset(split, getattr(config, split), seed) for split in ("train", "test"))
    run_dir = RunDir(folder, resume=True, progress=lambda stage, fraction: report(f"{stage} {fraction:.0%}"))
    model = new_model(seed, config.size)
    run_stages(model, data, config.train_config(seed, ("backbone", "label", "filter")), run_dir)
    before = evaluate_masks(model, test, (1.0,), seed=seed)
    yield from _rows("full", model, before, seed, fine_tuned=False)
    for method in (*fills, "random tokens"):
        tuned = _tuned(model, data, config, seed, folder, method, run_dir)
        found = evaluate_masks(tuned, test, BUDGETS, seed=seed)
        yield from _rows(method, tuned, found, seed, fine_tuned=True)
        if method == fills[0]:
            (batch,) = test.batches([torch.arange(4)])
            save_bundle(tuned, folder / "model.pt", examples=batch.images, class_names=CLASSES)


def _tuned(
    model: FilteredViT,
    data: TensorDataset,
    config: SegmentationConfig,
    seed: int,
    folder: Path,
    method: str,
    run_dir: RunDir,
) -> FilteredViT:
    """A copy of the model with another fill, or with random tokens, fine-tuned."""
    tuned = copy.deepcopy(model)
    _refill(tuned, method if method in FILLS else FILLS[0], seed)
    if method not in FILLS:
        tuned.drop.scorer = RandomScorer(seed)
    own = folder / method.replace(" ", "-")
    own.mkdir(parents=True, exist_ok=True)
    run_stages(tuned, data, config.train_config(seed, ("finetune",)), replace(run_dir, folder=own))
    return tuned


def _refill(model: FilteredViT, name: str, seed: int) -> None:
    """Another fill, with new weights."""
    head = model.mask_head
    assert head is not None
    torch.manual_seed(seed)
    head.config = replace(head.config, fill=name)
    head.fill = fill_from_name(name, model.channels, head.config.width, model.grid)


def _rows(
    method: str, model: FilteredViT, found: list[MaskAccuracy], seed: int, fine_tuned: bool
) -> Iterator[dict[str, Any]]:
    for accuracy in found:
        row = {"method": method, "seed": seed, "fine_tuned": fine_tuned, **asdict(accuracy)}
        yield {**row, "iou": list(accuracy.iou), "macs": macs(model, accuracy.tokens)}


def _progress(text: str) -> None:
    click.echo(f"\r{text:60}", nl=False, err=True)


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"seed {row['seed']}  {row['method']:>13}  {row['tokens']:4d} tokens  mIoU {row['miou']:.3f} "
        f"({row['low']:.3f} to {row['high']:.3f})  {row['macs'] / 1e6:.1f} MMACs"
    )


@click.command()
@click.option("--seeds", default="0", show_default=True, callback=numbers_from_text, help="Seeds, with commas.")
@click.option("--steps", type=click.IntRange(min=1), default=SegmentationConfig.steps, show_default=True)
@click.option("--labelled", type=click.IntRange(min=1), default=SegmentationConfig.labelled, show_default=True)
@click.option(
    "--finetune-steps", type=click.IntRange(min=1), default=SegmentationConfig.finetune_steps, show_default=True
)
@click.option("--batch", type=click.IntRange(min=4), default=SegmentationConfig.batch, show_default=True)
@click.option("--train", type=click.IntRange(min=1), default=SegmentationConfig.train, show_default=True)
@click.option("--test", type=click.IntRange(min=4), default=SegmentationConfig.test, show_default=True)
@click.option("--labels", type=click.Choice(get_args(LabelMethod)), default="exact", show_default=True)
@click.option("--fill", "fills", type=click.Choice(FILLS), multiple=True, help="Repeatable. Default: all.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keeps checkpoints and model.pt.")
@threads_option(None, "Of PyTorch. Default: its own choice.")
@output_option(RESULT)
@json_option
def main(
    seeds: list[int],
    steps: int,
    labelled: int,
    finetune_steps: int,
    batch: int,
    train: int,
    test: int,
    labels: LabelMethod,
    fills: tuple[str, ...],
    folder: Path | None,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Train and measure segmentation with and without filtering. Goes on from the checkpoints in --folder."""
    if threads is not None:
        torch.set_num_threads(threads)
    config = SegmentationConfig(train, test, steps, labelled, finetune_steps=finetune_steps, batch=batch, labels=labels)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="tokfilter-segmentation-") as temporary:
        for seed in seeds:
            own = (folder or Path(temporary)) / f"seed-{seed}"
            own.mkdir(parents=True, exist_ok=True)
            for row in seed_rows(config, seed, own, _progress, fills or FILLS):
                click.echo(f"\r{_line(row)}", err=True)
                rows.append(row)
    settings = {**asdict(config), "scenes": asdict(_SCENES), "classes": list(CLASSES), "seeds": seeds}
    model = {"architecture": _ARCHITECTURE.name, **_ARCHITECTURE.kwargs}
    document = {**header("segmentation", command_line()), "model": model, "settings": settings, "rows": rows}
    publish(document, output, as_json, map(_line, rows))
