"""The tasks of the accuracy study: data sets, the model for each, and the training settings of one seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.records.paths import WHEELS
from tokfilter.benchmarks.study.baselines import TOKEN_BASELINES
from tokfilter.benchmarks.study.fashion import write_fashion
from tokfilter.benchmarks.study.methods import BEFORE, FILTER
from tokfilter.benchmarks.study.photo_scenes import write_photo_scenes
from tokfilter.benchmarks.study.photo_sources import sources_from_wheels
from tokfilter.benchmarks.study.photo_start import trained_on_small_scenes
from tokfilter.benchmarks.study.scenes import write_scenes
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Progress
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.labels import LabelConfig
from tokfilter.train.loop import Precision, TrainingPlan
from tokfilter.train.token_sets import Grouping

__all__ = [
    "DIGITS",
    "FASHION",
    "OBJECTS",
    "OBJECTS_BY_RECIPE",
    "SMALL_MODELS",
    "TASKS",
    "PhotoConfig",
    "StudyConfig",
    "Task",
]


@dataclass(frozen=True)
class StudyConfig:
    """Images and optimiser steps of one seed. The defaults are the demo's.

    train, test: scenes that are generated (digits-in-scenes only; Fashion-MNIST is used whole)
    labelled: training images that get delta-loss labels
    batch: images per step of backbone and fine-tuning
    flip: probability of a horizontally flipped training image
    """

    train: int = 8000
    test: int = 2000
    backbone_steps: int = 2500
    labelled: int = 2000
    filter_steps: int = 400
    finetune_steps: int = 400
    finetune_lr: float = 3e-4
    batch: int = 32
    flip: float = 0.0

    def train_config(self, seed: int) -> TrainConfig:
        """The settings of all training stages."""
        augmentation = Augmentation(flip=self.flip)
        finetune = TrainingPlan(self.finetune_steps, self.batch, lr=self.finetune_lr)
        return TrainConfig(
            keep=0.25,
            seed=seed,
            label_limit=self.labelled,
            filter_config=FilterConfig(width=32),  # 1.3 % of the full model's multiply-accumulates
            backbone=FineTuning(TrainingPlan(self.backbone_steps, self.batch, lr=1e-3), augmentation=augmentation),
            filter=FilterTraining(TrainingPlan(self.filter_steps, batch=64, lr=2e-3, weight_decay=0.01)),
            finetune=FineTuning(finetune, augmentation=augmentation),
        )


@dataclass(frozen=True)
class PhotoConfig(StudyConfig):
    """Settings of a trained ViT-S/14 on photographs of 224 pixels, 257 tokens, in bf16.

    small_images, small_steps, small_batch: scenes of 98 pixels and steps on them, before the whole images
        (``photo_start.py``)
    backbone_lr: of the trained weights, on the scenes of 98 pixels too
    small_head_lr, head_lr: factors on it for the head: on the scenes of 98 pixels, and on the whole images
    precision: of training, labels and evaluation, by autocast
    group, rounds: tokens that are masked together, in squares, and how often each is masked
    """

    train: int = 5000
    test: int = 1000
    small_images: int = 10000
    small_steps: int = 600
    small_batch: int = 32
    small_head_lr: float = 50.0
    backbone_steps: int = 250
    labelled: int = 120
    filter_steps: int = 400
    finetune_steps: int = 100
    finetune_lr: float = 2e-5
    batch: int = 16
    backbone_lr: float = 2e-5
    head_lr: float = 10.0
    precision: Precision = "bf16"
    group: int = 16
    rounds: int = 2

    @property
    def small_plan(self) -> TrainingPlan:
        """Of the training on scenes of 98 pixels."""
        return TrainingPlan(
            self.small_steps, self.small_batch, self.backbone_lr, precision=self.precision, head_lr=self.small_head_lr
        )

    def train_config(self, seed: int) -> TrainConfig:
        """The settings of all training stages."""
        config = super().train_config(seed)

        def plan(given: TrainingPlan, **changes: Any) -> TrainingPlan:
            return replace(given, precision=self.precision, **changes)

        return replace(
            config,
            label_chunk=16,
            test_precision=self.precision,
            labels=LabelConfig(
                method="grouped", groups=Grouping("block", self.group, self.rounds), precision=self.precision
            ),
            backbone=replace(
                config.backbone, plan=plan(config.backbone.plan, lr=self.backbone_lr, head_lr=self.head_lr)
            ),
            filter=replace(config.filter, plan=plan(config.filter.plan, batch=32)),
            finetune=replace(config.finetune, plan=plan(config.finetune.plan)),
        )


SMALL_MODELS: Final = ("filter.width=32", "finetune.lr=1e-3")
"""Settings of the default recipe that differ for a narrow model which was trained from random weights."""


@dataclass(frozen=True)
class Task:
    """A data set, the model that is trained on it, and the token budgets.

    budgets: 1.0 first
    seeded: whether each seed has a data set of its own
    write: (folder, seed, config, progress, wheels) -> the data set as image folders
    start: (folder, config, progress, wheels) -> weights that every seed's backbone starts from; None: new weights
    methods: those of the study that are run; None: all
    curve: whether reducers are also evaluated at more budgets, for the comparison at equal latency
    recipe: settings of the default recipe that differ for its model (``recipe_config.py``)
    wheels: folder of the wheels that data and weights are read from
    """

    name: str
    architecture: Architecture
    budgets: tuple[Keep, ...]
    config: StudyConfig
    seeded: bool
    write: Callable[[Path, int, StudyConfig, Progress, Path], object] = field(compare=False)
    start: Callable[[Path, Any, Progress, Path], Mapping[str, Tensor]] | None = field(default=None, compare=False)
    methods: tuple[str, ...] | None = None
    curve: bool = True
    recipe: tuple[str, ...] = SMALL_MODELS
    wheels: Path = field(default=WHEELS, compare=False)


def _tiny(size: int, patch: int) -> Architecture:
    """A timm ViT that trains in minutes on one core."""
    return Architecture(
        "vit_tiny_patch16_224",
        {"img_size": size, "patch_size": patch, "embed_dim": 64, "depth": 4, "num_heads": 2},
    )


def _write_digits(folder: Path, seed: int, config: StudyConfig, progress: Progress, wheels: Path) -> None:
    write_scenes(folder, seed, config.train, config.test, progress=progress)


def _write_fashion(folder: Path, seed: int, config: StudyConfig, progress: Progress, wheels: Path) -> None:
    write_fashion(folder, progress=progress)


def _write_objects(folder: Path, seed: int, config: StudyConfig, progress: Progress, wheels: Path) -> None:
    """The same images for every seed, as of a published data set."""
    counts = {"train": config.train, "test": config.test}
    write_photo_scenes(folder, 0, counts, partial(sources_from_wheels, wheels=wheels), progress=progress)


_VIT: Final = Architecture("vit_small_patch14_dinov2", {"img_size": 224})


def _trained_vit(folder: Path, config: PhotoConfig, progress: Progress, wheels: Path) -> Mapping[str, Tensor]:
    """Trained weights of the ViT-S/14, whose 16 x 16 positions are those of 224 pixels, trained on small scenes."""
    from tokfilter.benchmarks.study.pretrained_vit import graph_from_wheel, trained_weights  # needs onnx

    weights = trained_weights(graph_from_wheel(wheels))
    return trained_on_small_scenes(weights, _VIT, folder, wheels, config.small_plan, config.small_images, progress)


DIGITS: Final = Task(
    "digits-in-scenes",
    _tiny(64, 8),
    (1.0, 0.7, 0.5, 0.35, 0.25, 0.15),
    StudyConfig(),
    True,
    _write_digits,
)
FASHION: Final = Task(
    "fashion-mnist",
    _tiny(28, 4),
    (1.0, 0.7, 0.5, 0.35, 0.25),
    StudyConfig(backbone_steps=5000, finetune_steps=1000, finetune_lr=5e-4, batch=64, flip=0.5),
    False,
    _write_fashion,
)
OBJECTS: Final = Task(
    "objects-in-photographs",
    _VIT,
    (1.0, 0.5, 0.25),
    PhotoConfig(),
    False,
    _write_objects,
    _trained_vit,
    (BEFORE, FILTER, *TOKEN_BASELINES, "tome", "evit"),
    False,
)
OBJECTS_BY_RECIPE: Final = replace(
    OBJECTS,
    config=PhotoConfig(
        train=16_000,
        test=5_000,
        small_batch=256,
        backbone_steps=1_500,
        batch=128,
        backbone_lr=4e-5,
    ),
    recipe=(
        "labels.method=grouped",
        "labels.mask=removed",
        "labels.group_shape=random",
        "labels.group_size=0",
        "labels.group_rounds=64",
        "labels.group_estimate=log-ridge",
        "labels.precision=fp16",
        "labels.chunk=1024",
        "labels.limit=2000",
        "filter.epochs=50",
        "filter.precision=bf16",
        "finetune.lr=4e-5",
        "finetune.batch=256",
        "finetune.epochs=3",
        "finetune.min_keep=0.25",
        "finetune.precision=bf16",
    ),
)
"""The same scenes in numbers for a GPU: some minutes of an H100 for all methods."""
TASKS: Final = {task.name: task for task in (DIGITS, FASHION, OBJECTS)}
