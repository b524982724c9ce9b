"""The tasks of the accuracy study: data sets, the model for each, and the training settings of one seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.study.fashion import write_fashion
from tokfilter.benchmarks.study.scenes import write_scenes
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Progress
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.loop import TrainingPlan

__all__ = ["DIGITS", "FASHION", "TASKS", "StudyConfig", "Task"]


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
class Task:
    """A data set, the model that is trained on it, and the token budgets.

    budgets: 1.0 first
    seeded: whether each seed has a data set of its own
    write: (folder, seed, config, progress) -> the data set as image folders
    """

    name: str
    architecture: Architecture
    budgets: tuple[Keep, ...]
    config: StudyConfig
    seeded: bool
    write: Callable[[Path, int, StudyConfig, Progress], object] = field(compare=False)


def _tiny(size: int, patch: int) -> Architecture:
    """A timm ViT that trains in minutes on one core."""
    return Architecture(
        "vit_tiny_patch16_224",
        {"img_size": size, "patch_size": patch, "embed_dim": 64, "depth": 4, "num_heads": 2},
    )


def _write_digits(folder: Path, seed: int, config: StudyConfig, progress: Progress) -> None:
    write_scenes(folder, seed, config.train, config.test, progress=progress)


def _write_fashion(folder: Path, seed: int, config: StudyConfig, progress: Progress) -> None:
    write_fashion(folder, progress=progress)


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
TASKS: Final = {task.name: task for task in (DIGITS, FASHION)}
