"""The settings of a training, with lengths in optimiser steps; ``recipe.py`` converts a recipe's epochs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import DataError
from tokfilter.train.filter_training import FilterTraining
from tokfilter.train.finetune import FineTuning
from tokfilter.train.image_loss import CROSS_ENTROPY
from tokfilter.train.labels import LabelConfig, LabelPrecision

__all__ = ["STAGES", "TrainConfig", "check_frozen"]

_LEARNS_IN_BLOCKS: Final = ("dynamic", "frequency")
STAGES: Final = ("backbone", "label", "filter", "finetune")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of all stages.

    stages: some of STAGES; they run in the order of STAGES
    keep: the model's default budget
    label_limit: largest number of training images that are labelled, drawn at random; None labels all
    label_chunk: masked variants per forward pass; bounds the memory
    seed: of every random draw
    new_context: hidden width of the global context of a new filter, where filter_config has none (``new_filter.py``)
    neighbours: whether a new filter reads neighbours, where filter_config does not say so; None: as the one before it
    reducer: what gets rid of tokens; another one than the filter has the stages backbone and finetune only
    frozen: train no weight of the backbone: the filter, and in the stage finetune its global context
    test_precision: of the forward passes that measure top-1, by autocast
    """

    stages: tuple[str, ...] = STAGES
    keep: Keep = 0.5
    label_limit: int | None = None
    label_chunk: int = 256
    seed: int = 0
    filter_config: FilterConfig = field(default_factory=FilterConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    backbone: FineTuning = field(default_factory=FineTuning)
    filter: FilterTraining = field(default_factory=FilterTraining)
    finetune: FineTuning = field(default_factory=FineTuning)
    new_context: int = 0
    neighbours: bool | None = False
    reducer: ReducerConfig = field(default_factory=ReducerConfig)
    frozen: bool = False
    test_precision: LabelPrecision = "fp32"

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise DataError(f"stages are some of {', '.join(STAGES)}, got {', '.join(self.stages) or 'none'}.")
        if self.frozen:
            check_frozen(self.stages, self.reducer.name)
        if "backbone" in self.stages and self.finetune.loss != CROSS_ENTROPY:
            raise DataError(
                f"the stage backbone trains by class labels, which the loss {self.finetune.loss} does without: leave "
                "the stage out and start from trained weights, or choose the loss cross-entropy."
            )
        trained = [stage for stage in self.stages if stage in ("label", "filter")]
        if trained and self.reducer.name != "filter":
            raise DataError(
                f"the stage {trained[0]} trains a token filter, and the reducer is {self.reducer.name}: its stages are "
                "backbone and finetune."
            )


def check_frozen(stages: Sequence[str], reducer: str) -> None:
    """Raise DataError for what a frozen backbone excludes."""
    if "backbone" in stages:
        raise DataError(
            "the stage backbone trains the weights that a frozen backbone keeps: leave the stage out and start from "
            "trained weights, or train without a frozen backbone."
        )
    if reducer in _LEARNS_IN_BLOCKS:
        raise DataError(
            f"the reducer {reducer} learns weights inside the blocks, which are trained together with the backbone: "
            "train it without a frozen backbone, or choose the reducer filter."
        )
    if reducer != "filter":
        raise DataError(
            f"the reducer {reducer} learns nothing, so with a frozen backbone there is nothing to train: "
            f"tokfilter.patch(model, reducer={reducer!r}) runs as it is."
        )
