"""Trains backbones: from scratch or on the user's classes with every token, and with a hard top-k of elastic budgets.

The paper fine-tunes the backbone with its filter; elastic budgets, distillation and every number here are ours.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.budget import Keep, tokens_from_keep
from tokfilter.errors import BudgetError
from tokfilter.scorers import RandomScorer
from tokfilter.train.loop import Plan, Work, train
from tokfilter.train.views import Augmentation, Batch, Views, augmented

__all__ = ["Budgeted", "FineTuning", "initialise", "train_backbone", "train_elastic"]


class Budgeted(Protocol):
    """What has logits at a budget: FilteredViT, and the rival with fewer pixels."""

    patches: int

    def __call__(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]."""


@dataclass(frozen=True)
class FineTuning:
    """How a backbone learns.

    smoothing: of the labels
    low: the smallest share of the tokens that a step may draw
    full: probability that a step keeps every token, so that the full model stays good
    fixed: every step keeps this budget, and the checkpoint serves it alone; None draws a budget for each step
    distill: weight of the divergence from the start model's full logits; 0 leaves it out
    """

    plan: Plan = field(default_factory=lambda: Plan(steps=400, lr=5e-4))
    smoothing: float = 0.1
    low: float = 0.125
    full: float = 0.25
    fixed: Keep | None = None
    distill: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not (0 < self.low <= 1 and 0 <= self.full <= 1):
            raise BudgetError(f"elastic budgets want shares between 0 and 1, got low {self.low}, full {self.full}.")


def initialise(backbone: Any, seed: int) -> None:
    """Draw new weights as timm's "jax" mode does (Xavier for linear layers).

    timm's default, normal with deviation 0.02, was made for wide models and leaves a narrow one on a plateau.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone.init_weights("jax")


def train_backbone(
    model: nn.Module, views: Views, config: FineTuning, seed: int, work: Work, name: str = "backbone"
) -> dict[str, Any]:
    """Train with every token, in place. Returns metrics."""
    return _run(name, model, views, config, seed, work, elastic=False)


def train_elastic(
    model: nn.Module,
    views: Views,
    config: FineTuning,
    seed: int,
    work: Work,
    name: str = "finetune",
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """Train with a budget drawn anew each step, in place; a scorer stays as it is. Returns metrics.

    teacher: a model whose full logits are imitated when ``config.distill`` is above 0
    """
    return _run(name, model, views, config, seed, work, elastic=True, teacher=teacher)


def _run(
    name: str,
    model: Any,
    views: Views,
    config: FineTuning,
    seed: int,
    work: Work,
    elastic: bool,
    teacher: Any = None,
) -> dict[str, Any]:
    device = next(model.parameters()).device
    identity = f"{views.images.digest()} {asdict(views.preprocessing)} {asdict(config)} {_digest(model)}"

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        images = augmented(views.normalised(batch.images, device), config.augmentation, generator)
        keep = _budget(config, model.patches, generator) if elastic else model.patches
        _reseed(model, generator)
        logits = model(images, keep)
        value = F.cross_entropy(logits, batch.labels.to(device), label_smoothing=config.smoothing)
        if teacher is None or config.distill == 0:
            return value
        with torch.no_grad():
            wanted = teacher(images, teacher.patches).log_softmax(-1)
        divergence = F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
        return value + config.distill * divergence

    model.train()
    losses = train(name, model, views, loss, config.plan, seed, identity, work)
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return {"first_loss": losses[0], "last_loss": sum(last) / len(last), "steps": len(losses)}


def _budget(config: FineTuning, patches: int, generator: torch.Generator) -> int:
    """The fixed one; or every token with probability ``full``, else any count from the lowest up."""
    if config.fixed is not None:
        return tokens_from_keep(config.fixed, patches)
    if float(torch.rand((), generator=generator)) < config.full:
        return patches
    lowest = max(1, round(config.low * patches))
    return int(torch.randint(lowest, patches + 1, (), generator=generator))


def _reseed(model: Any, generator: torch.Generator) -> None:
    """The random rival draws from the step's source too, so that it resumes like everything else."""
    for module in model.modules():
        if isinstance(module, RandomScorer):
            module.generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))


def _digest(model: nn.Module) -> str:
    text = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        text.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()
