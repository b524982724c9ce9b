"""Trains backbones: with every token, or with a hard top-k at budgets drawn in each step (elastic fine-tuning).

The paper fine-tunes the backbone with its filter; elastic budgets, distillation and every number here are ours.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import BudgetError, DataError
from tokfilter.train.augmentation import Augmentation, augmented
from tokfilter.train.dataset import Batch, TrainingData
from tokfilter.train.distillation import check_losses, feature_distance, final_features, token_cuts
from tokfilter.train.image_loss import CROSS_ENTROPY, LossName, output_distance
from tokfilter.train.loop import RunDir, TrainingPlan, loss_metrics, train
from tokfilter.train.mixing import check_mixing, mixed
from tokfilter.train.pixel_changes import erased
from tokfilter.train.recompute import Checkpointing, check_recomputed, recomputed_blocks
from tokfilter.train.share import Share
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.in_block import InBlockReducer
from tokfilter.vit.scorers import RandomScorer

__all__ = ["Budgeted", "FineTuning", "check_training", "initialise", "train_backbone", "train_elastic"]


class Budgeted(Protocol):
    """A model with logits at a budget: FilteredViT, and the baselines of the study."""

    num_patches: int

    def __call__(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]."""


@dataclass(frozen=True)
class FineTuning:
    """Settings of a backbone's training.

    smoothing: of the labels
    low: smallest ratio of tokens that is drawn
    budgets: number of budgets that are drawn in each step and divide its images; one of them is every token
    fixed: train at this budget only; None draws budgets
    distill: weight of the divergence from the start model's logits with every token; 0: none
    loss: cross-entropy on the labels; or feature or kl: the distance from the start model's outputs with every token
        (``image_loss.py``) in place of the labels'
    token_cut: weight of IdleViT's token-cut loss, mean over idle blocks and the budgets that drop tokens; 0: none
    distill_features: weight of the distance from the start model's features with every token; 0: none
    checkpointing: on keeps the inputs of blocks alone, and runs each block again for its gradients (``recompute.py``)
    frozen: train the filter's global context alone; the backbone stays in evaluation mode
    """

    plan: TrainingPlan = field(default_factory=lambda: TrainingPlan(steps=400, lr=5e-4))
    smoothing: float = 0.1
    low: float = 0.125
    budgets: int = 4
    fixed: Keep | None = None
    distill: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossName = CROSS_ENTROPY
    token_cut: float = 0.0
    distill_features: float = 0.0
    checkpointing: Checkpointing = "off"
    frozen: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.low <= 1 and self.budgets >= 2):
            raise BudgetError(
                f"elastic fine-tuning needs a smallest ratio in (0, 1] and at least 2 budgets per step, "
                f"got {self.low} and {self.budgets}."
            )
        if self.loss not in get_args(LossName):
            raise DataError(f"the loss of fine-tuning is one of {', '.join(get_args(LossName))}, got {self.loss!r}.")
        if self.loss != CROSS_ENTROPY and self.distill:
            raise DataError(
                f"the loss {self.loss} trains by the full model's outputs alone, so a weight of distillation beside it "
                f"has no meaning, got {self.distill:g}: set finetune.distill to 0."
            )

        if self.loss != CROSS_ENTROPY and self.augmentation.mixes:
            raise DataError(
                f"mixup and cutmix mix class labels, which the loss {self.loss} does not use: set data.mixup and "
                "data.cutmix to 0."
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares with the model as it was before."""
        return self.distill > 0 or self.distill_features > 0 or self.loss != CROSS_ENTROPY

    def identity(self) -> dict[str, Any]:
        """The settings as they enter the identity of a checkpoint.

        What earlier versions did not have is left out at its default, so that their checkpoints stay valid.
        """
        later = {
            "loss": CROSS_ENTROPY,
            "token_cut": 0.0,
            "distill_features": 0.0,
            "checkpointing": "off",
            "frozen": False,
        }
        fields = {**asdict(self), "plan": self.plan.identity(), "augmentation": self.augmentation.identity()}
        return {name: value for name, value in fields.items() if name not in later or value != later[name]}


def initialise(backbone: Any, seed: int) -> None:
    """Draw new weights by timm's "jax" mode (Xavier for linear layers).

    With timm's default, a normal distribution of deviation 0.02, the loss of a narrow model stays on a plateau.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone.init_weights("jax")


def check_training(config: FineTuning, reducer: str, batch: int, patches: int, masks: bool = False) -> None:
    """Raise DataError for settings that exclude each other, the reducer, the images of a step or a mask head.

    patches: patch tokens of the model
    """
    if config.frozen and config.fixed is not None and tokens_from_keep(config.fixed, patches) == patches:
        raise DataError(
            f"finetune.fixed_keep={config.fixed} is every token of this model, with which nothing is trained on a "
            "frozen backbone: give fewer."
        )
    check_losses(reducer, config.token_cut)
    check_recomputed(reducer, config.checkpointing)
    if config.augmentation.mixes:
        check_mixing(batch, masks)


def train_backbone(
    model: nn.Module, dataset: TrainingData, config: FineTuning, seed: int, run_dir: RunDir, name: str = "backbone"
) -> dict[str, Any]:
    """Train with every token, in place. Returns metrics."""
    return _run(name, model, dataset, config, seed, run_dir, elastic=False)


def train_elastic(
    model: nn.Module,
    dataset: TrainingData,
    config: FineTuning,
    seed: int,
    run_dir: RunDir,
    name: str = "finetune",
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """Train with budgets drawn in each step, in place; the scorer is not trained. Returns metrics.

    teacher: model for distillation by its outputs with every token, where ``config.needs_teacher``
    """
    return _run(name, model, dataset, config, seed, run_dir, elastic=True, teacher=teacher)


def _run(
    name: str,
    model: Any,
    dataset: TrainingData,
    config: FineTuning,
    seed: int,
    run_dir: RunDir,
    elastic: bool,
    teacher: Any = None,
) -> dict[str, Any]:
    distils_features = teacher is not None and config.distill_features > 0
    device = next(model.parameters()).device
    identity = f"{dataset.images.digest()} {asdict(dataset.preprocessing)} {config.identity()} {_digest(model)}"
    identity += _reducer_text(model)
    smallest = model.drop.smallest if isinstance(model, FilteredViT) else 1
    reducer = model.drop.name if isinstance(model, FilteredViT) else type(model).__name__
    masks = getattr(model, "mask_head", None) is not None
    check_training(config, reducer, min(config.plan.batch, len(dataset)), model.num_patches, masks)
    if isinstance(model, FilteredViT) and config.fixed is not None:
        model.drop.tokens(config.fixed)

    change = config.augmentation
    mixing = change.mixes

    def loss(batch: Batch, share: Share, generator: torch.Generator) -> Tensor:
        images = dataset.normalised(batch.images, device)
        images, labels = augmented(images, batch.labels.to(device), change, generator, share)
        if change.erasing:
            images = erased(images, change.erasing, generator, share)
        smoothing = config.smoothing
        if mixing:
            classes = getattr(model, "backbone", model).num_classes
            images, labels = mixed(images, labels, change.mixup, change.cutmix, classes, smoothing, generator)
            smoothing = 0.0  # the labels have it
        keeps = _budgets(config, model.num_patches, smallest, generator) if elastic else [model.num_patches]
        _reseed(model, generator)
        sizes = share.group_sizes(len(keeps))  # fewer images than budgets make fewer parts
        parts = zip(images.split_with_sizes(sizes), keeps, strict=False)
        with token_cuts(model, config.token_cut > 0) as cuts, final_features(model, distils_features) as features:
            logits = torch.cat([model(part, keep) for part, keep in parts if len(part)]).float()
        full: Tensor | None = None
        if teacher is not None and config.needs_teacher:
            with torch.no_grad(), final_features(teacher, distils_features) as targets:
                full = teacher(images, teacher.num_patches)
        if config.loss == CROSS_ENTROPY:
            value = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            if full is not None and config.distill > 0:
                value = value + config.distill * output_distance(logits, full, "kl").mean()
        else:
            assert full is not None
            value = output_distance(logits, full, config.loss).mean()
        if cuts:  # none where each budget is every token
            value = value + config.token_cut * torch.stack(cuts).mean()
        if distils_features:
            value = value + config.distill_features * feature_distance(features, targets[0].tokens)
        return value

    model.train(not config.frozen)
    with recomputed_blocks(model, config.checkpointing):
        losses = train(name, model, dataset.changing(change), loss, config.plan, seed, identity, run_dir)
    model.eval()
    return {**loss_metrics(losses), "steps": len(losses)}


def _reducer_text(model: Any) -> str:
    """What the reducer's settings add to the identity of a checkpoint: nothing at their defaults."""
    drop = model.drop if isinstance(model, FilteredViT) else None
    if not isinstance(drop, InBlockReducer):
        return ""
    with torch.device("meta"):
        usual = type(drop)(model.backbone).settings()
    changed = {name: value for name, value in drop.settings().items() if value != usual[name]}
    return f" {changed}" if changed else ""


def _budgets(config: FineTuning, num_patches: int, smallest: int, generator: torch.Generator) -> list[int]:
    """Token counts of a step: the fixed one; or every token and smaller counts, in random order.

    smallest: budget that the reducer has

    The smaller counts are evenly spaced on a logarithmic scale between the lowest count and every token, from a random
    offset, so that every step has small budgets. After the sandwich rule of slimmable networks (arXiv 1903.05134),
    which runs every image at each budget; here the budgets divide the images of the step. A frozen backbone is not
    trained with every token: its context is not used there.
    """
    if config.fixed is not None:
        return [tokens_from_keep(config.fixed, num_patches)]
    every = [] if config.frozen else [num_patches]
    largest = max(1, num_patches - 1) if config.frozen else num_patches
    lowest = min(max(1, smallest, round(config.low * num_patches)), largest)
    smaller = config.budgets - len(every)
    spots = (torch.arange(smaller) + torch.rand(1, generator=generator)) / smaller
    counts = lowest * ((largest + 1) / lowest) ** spots
    drawn = [*every, *counts.int().clamp(max=largest).tolist()]
    return [drawn[i] for i in torch.randperm(len(drawn), generator=generator)]


def _reseed(model: Any, generator: torch.Generator) -> None:
    """Seed the random baseline from the step's generator, so that a resumed run draws the same scores."""
    for module in model.modules():
        if isinstance(module, RandomScorer):
            module.generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))


def _digest(model: nn.Module) -> str:
    text = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        text.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()
