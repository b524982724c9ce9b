"""A training recipe: all settings by name, each with its range and a line of help.

``recipe_file.py`` reads and prints recipes as TOML. The defaults are the built-in recipe
"default" (``built_in.py``).
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from tokfilter.artifacts.budget import KEEP_HELP, Keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.train.config import STAGES, TrainConfig
from tokfilter.train.data_settings import DataSettings, about
from tokfilter.train.filter_training import FilterTraining, Objective
from tokfilter.train.finetune import FineTuning
from tokfilter.train.image_loss import CROSS_ENTROPY, LossName
from tokfilter.train.labels import LabelConfig, LabelMethod, LabelPrecision
from tokfilter.train.loop import Precision, TrainingPlan
from tokfilter.train.masking import MaskConfig, MaskPoint, MaskValue
from tokfilter.train.recompute import Checkpointing
from tokfilter.train.reducer_settings import ReducerSettings
from tokfilter.train.token_sets import GroupEstimate, Grouping, GroupShape

_SHAPE: Final = ("width", "depth", "activation", "global_feature")
"""Settings of the filter that are its shape's, by the same names."""

CONTEXT: Final = 16
"""Hidden width of the global context that a new filter gets by default (docs/study.md)."""

__all__ = [
    "CONTEXT",
    "FilterSettings",
    "FinetuneSettings",
    "LabelSettings",
    "Recipe",
    "ReducerSettings",
    "config_from_recipe",
]


@dataclass(frozen=True)
class LabelSettings:
    """Measurement of delta loss, and the threshold above which a token is important."""

    method: LabelMethod = field(
        default="exact", metadata=about("one pass per token, one gradient per image, or one pass per group")
    )
    mask: MaskValue | None = field(
        default=None,
        metadata=about("what replaces a masked token; removed: it is dropped; unset: zero, for a mask head mean"),
    )
    mask_point: MaskPoint = field(
        default="after", metadata=about("mask before or after the position embedding is added")
    )
    group_shape: GroupShape = field(
        default="block", metadata=about("method grouped: squares of neighbours, or random tokens")
    )
    group_size: int = field(
        default=4,
        metadata=about("method grouped: tokens masked together; 0, for random groups: half of the tokens", "[0, inf)"),
    )
    group_rounds: int = field(default=2, metadata=about("method grouped: groups that each token is in", "[1, inf)"))
    group_estimate: GroupEstimate = field(
        default="mean",
        metadata=about("method grouped: a token's label is its groups' mean, or by regression of log loss"),
    )
    precision: LabelPrecision = field(default="fp32", metadata=about("of the forward passes"))
    limit: int = field(
        default=6000,
        metadata=about("largest number of images that are labelled, drawn at random; 0: all", "[0, inf)"),
    )
    chunk: int = field(default=256, metadata=about("masked variants per forward pass; bounds the memory", "[1, inf)"))
    rho: float | None = field(
        default=None, metadata=about("a token is important above this delta loss, in nats; unset: by labels.fraction")
    )
    fraction: float = field(
        default=0.15, metadata=about("fraction of tokens that are important when rho is not set", "(0, 1)")
    )


@dataclass(frozen=True)
class StageSettings:
    """Length and learning rate of a stage."""

    epochs: float = field(default=10.0, metadata=about("passes over the training images", "(0, inf)"))
    batch: int = field(default=64, metadata=about("images per step", "[1, 65536]"))
    lr: float = field(default=1e-3, metadata=about("learning rate of AdamW", "(0, inf)"))
    weight_decay: float = field(default=0.05, metadata=about("of AdamW; norms and biases do not decay", "[0, inf)"))
    warmup: float = field(
        default=0.05, metadata=about("fraction of the steps in which the learning rate rises", "[0, 1)")
    )
    clip: float = field(default=1.0, metadata=about("largest gradient norm", "(0, inf)"))
    precision: Precision = field(default="fp32", metadata=about("of the forward passes; weights stay in fp32"))
    accumulate: int = field(
        default=1, metadata=about("passes that divide a process's images of a step, for less memory", "[1, 65536]")
    )
    ema: float = field(
        default=0.0, metadata=about("decay of a mean of the weights, which the stage ends with; 0: none", "[0, 1)")
    )

    def plan(self, images: int) -> TrainingPlan:
        """The stage in optimiser steps for that number of training images."""
        steps = max(1, round(self.epochs * max(1, images // self.batch)))
        fields = ("batch", "lr", "weight_decay", "warmup", "clip", "precision", "accumulate", "ema")
        return TrainingPlan(steps, **{name: getattr(self, name) for name in fields})


@dataclass(frozen=True)
class BackboneSettings(StageSettings):
    """Training of the backbone with every token."""

    smoothing: float = field(default=0.1, metadata=about("label smoothing", "[0, 1)"))
    checkpointing: Checkpointing = field(
        default="off",
        metadata=about("activation checkpointing: blocks run again for their gradients, for less memory"),
    )


@dataclass(frozen=True)
class FilterSettings(StageSettings):
    """Shape and training of the token filter."""

    epochs: float = field(default=17.0, metadata=about("passes over the labelled images", "(0, inf)"))
    lr: float = field(default=2e-3, metadata=about("learning rate of AdamW", "(0, inf)"))
    weight_decay: float = field(default=0.01, metadata=about("of AdamW; norms and biases do not decay", "[0, inf)"))
    objective: Objective = field(
        default="combined",
        metadata=about(
            "what the filter predicts: delta loss above rho, its value, its order; combined: first and last"
        ),
    )
    width: int = field(default=64, metadata=about("hidden width of the MLP", "[1, inf)"))
    depth: int = field(default=2, metadata=about("hidden layers of the MLP", "[1, inf)"))
    activation: Literal["gelu", "relu", "silu"] = field(default="gelu", metadata=about("activation of the MLP"))
    global_feature: Literal["mean", "none"] = field(
        default="mean", metadata=about("mean token of the image as a second input of the MLP")
    )
    neighbours: bool | None = field(
        default=None,
        metadata=about(
            "a convolution over the 3 x 3 tokens around each in the MLP's first layer; unset: as the bundle; a "
            "first filter has none"
        ),
    )
    global_context: int | None = field(
        default=None,
        metadata=about(
            "hidden width of an MLP that adds all patch tokens to the class token; 0: none, or as the bundle; unset: "
            f"{CONTEXT} for a new filter of a classifier with a class token that is fine-tuned",
            "[0, inf)",
        ),
    )


@dataclass(frozen=True)
class FinetuneSettings(StageSettings):
    """Fine-tuning of the backbone with dropped tokens, at budgets drawn in each step."""

    epochs: float = field(default=5.0, metadata=about("passes over the training images", "(0, inf)"))
    lr: float = field(default=3e-4, metadata=about("learning rate of AdamW", "(0, inf)"))
    smoothing: float = field(default=0.1, metadata=about("label smoothing", "[0, 1)"))
    min_keep: float = field(default=0.125, metadata=about("smallest ratio of tokens that is drawn", "(0, 1]"))
    budgets: int = field(
        default=4, metadata=about("budgets that divide the images of a step; one is every token", "[2, inf)")
    )
    fixed_keep: Keep | None = field(
        default=None, metadata=about(f"train at this budget only: {KEEP_HELP}; unset: drawn budgets")
    )
    distill: float | None = field(
        default=None,
        metadata=about(
            "weight of the divergence from the full model's logits; 0: none; unset: 1, without class labels 0",
            "[0, inf)",
        ),
    )
    checkpointing: Checkpointing = field(
        default="off",
        metadata=about("activation checkpointing: blocks run again for their gradients, for less memory"),
    )
    distill_features: float = field(
        default=0.0, metadata=about("weight of the distance from the full model's features; 0: none", "[0, inf)")
    )
    token_cut: float = field(
        default=0.0, metadata=about("reducer idle: weight of its token-cut loss, 20 in the paper; 0: none", "[0, inf)")
    )


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; lengths in epochs. ``None``: unset."""

    stages: tuple[str, ...] | None = field(
        default=None, metadata=about(f"some of {', '.join(STAGES)}; unset: those that the start lacks")
    )
    keep: Keep = field(default=0.5, metadata=about(f"the model's default budget: {KEEP_HELP}"))
    loss: LossName = field(
        default=CROSS_ENTROPY,
        metadata=about(
            "of labels and fine-tuning; feature (cosine) and kl compare with the full model, without classes"
        ),
    )
    frozen: bool = field(
        default=False,
        metadata=about("train no weight of the backbone, the filter and its global context alone (docs/frozen.md)"),
    )
    seed: int = field(default=0, metadata=about("of every random draw"))
    save_seconds: float = field(default=20.0, metadata=about("time between checkpoints", "[0, inf)"))
    data: DataSettings = field(default_factory=DataSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    reducer: ReducerSettings = field(default_factory=ReducerSettings)


def config_from_recipe(
    recipe: Recipe, images: int, stages: tuple[str, ...] | None = None, reducer: ReducerConfig | None = None
) -> TrainConfig:
    """The recipe for a number of training images, in optimiser steps.

    stages: used when the recipe names none
    reducer: in place of the recipe's
    Raises DataError, BudgetError for settings that exclude each other.
    """
    labels, augmentation = recipe.labels, recipe.data.augmentation
    shape = {name: getattr(recipe.filter, name) for name in _SHAPE}
    reducer = reducer or recipe.reducer.config()
    default: tuple[str, ...] = STAGES if reducer.name == "filter" else ("backbone", "finetune")
    if recipe.frozen or recipe.loss != CROSS_ENTROPY:  # the backbone is trained by class labels
        default = default[1:]
    return TrainConfig(
        stages=recipe.stages or stages or default,
        keep=recipe.keep,
        label_limit=labels.limit or None,
        label_chunk=labels.chunk,
        seed=recipe.seed,
        filter_config=FilterConfig(**shape, summary=recipe.filter.global_context or 0),
        new_context=CONTEXT if recipe.filter.global_context is None else 0,
        neighbours=recipe.filter.neighbours,
        labels=LabelConfig(
            mask=MaskConfig(labels.mask or "zero", labels.mask_point),
            rho=labels.rho,
            fraction=labels.fraction,
            method=labels.method,
            groups=Grouping(labels.group_shape, labels.group_size, labels.group_rounds, labels.group_estimate),
            precision=labels.precision,
            loss=recipe.loss,
        ),
        backbone=FineTuning(
            recipe.backbone.plan(images),
            smoothing=recipe.backbone.smoothing,
            augmentation=augmentation,
            checkpointing=recipe.backbone.checkpointing,
        ),
        filter=FilterTraining(recipe.filter.plan(min(images, labels.limit or images)), recipe.filter.objective),
        finetune=FineTuning(
            recipe.finetune.plan(images),
            smoothing=recipe.finetune.smoothing,
            low=recipe.finetune.min_keep,
            budgets=recipe.finetune.budgets,
            fixed=recipe.finetune.fixed_keep,
            distill=_distill(recipe),
            distill_features=recipe.finetune.distill_features,
            token_cut=recipe.finetune.token_cut,
            augmentation=augmentation,
            loss=recipe.loss,
            checkpointing=recipe.finetune.checkpointing,
            frozen=recipe.frozen,
        ),
        reducer=reducer,
        frozen=recipe.frozen,
    )


def _distill(recipe: Recipe) -> float:
    given = recipe.finetune.distill
    return (1.0 if recipe.loss == CROSS_ENTROPY else 0.0) if given is None else given
