"""Trains backbones: from scratch or on the user's classes with every token, and with a hard top-k of elastic budgets.

The paper fine-tunes the backbone with its filter; elastic budgets, distillation and every number here are ours.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import BudgetError
from tokfilter.train.augmentation import Augmentation, augmented
from tokfilter.train.dataset import Batch, TrainingData
from tokfilter.train.loop import RunDir, TrainingPlan, train
from tokfilter.vit.scorers import RandomScorer

__all__ = ["Budgeted", "FineTuning", "initialise", "train_backbone", "train_elastic"]


class Budgeted(Protocol):
    """What has logits at a budget: FilteredViT, and the baseline with fewer pixels."""

    num_patches: int

    def __call__(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]."""


@dataclass(frozen=True)
class FineTuning:
    """How a backbone learns.

    smoothing: of the labels
    low: the smallest share of the tokens that may be drawn
    budgets: so many, drawn anew, share the images of each step; one of them is every token
    fixed: every image keeps this budget, and the checkpoint serves it alone; None draws
    distill: weight of the divergence from the start model's full logits; 0 leaves it out
    """

    plan: TrainingPlan = field(default_factory=lambda: TrainingPlan(steps=400, lr=5e-4))
    smoothing: float = 0.1
    low: float = 0.125
    budgets: int = 4
    fixed: Keep | None = None
    distill: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not (0 < self.low <= 1 and self.budgets >= 2):
            raise BudgetError(
                f"elastic fine-tuning wants a lowest share in (0, 1] and two or more budgets a step, "
                f"got low {self.low}, budgets {self.budgets}."
            )


def initialise(backbone: Any, seed: int) -> None:
    """Draw new weights as timm's "jax" mode does (Xavier for linear layers).

    timm's default, normal with deviation 0.02, was made for wide models and leaves a narrow one on a plateau.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone.init_weights("jax")


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
    """Train with budgets drawn anew each step, in place; a scorer stays as it is. Returns metrics.

    teacher: a model whose full logits are imitated when ``config.distill`` is above 0
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
    device = next(model.parameters()).device
    identity = f"{dataset.images.digest()} {asdict(dataset.preprocessing)} {asdict(config)} {_digest(model)}"

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        images = augmented(dataset.normalised(batch.images, device), config.augmentation, generator)
        keeps = _budgets(config, model.num_patches, generator) if elastic else [model.num_patches]
        _reseed(model, generator)
        parts = zip(images.chunk(len(keeps)), keeps, strict=False)  # few images have fewer parts
        logits = torch.cat([model(part, keep) for part, keep in parts])
        value = F.cross_entropy(logits, batch.labels.to(device), label_smoothing=config.smoothing)
        if teacher is None or config.distill == 0:
            return value
        with torch.no_grad():
            wanted = teacher(images, teacher.num_patches).log_softmax(-1)
        divergence = F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
        return value + config.distill * divergence

    model.train()
    losses = train(name, model, dataset, loss, config.plan, seed, identity, run_dir)
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return {"first_loss": losses[0], "last_loss": sum(last) / len(last), "steps": len(losses)}


def _budgets(config: FineTuning, patches: int, generator: torch.Generator) -> list[int]:
    """The fixed one; or every token and smaller counts, in an order drawn anew.

    Between the lowest count and all, the smaller ones divide the logarithm evenly, from an offset that is drawn: half
    as many tokens is as far at any size, and no step leaves the small budgets out. After the sandwich rule of slimmable
    networks (arXiv 1903.05134), which shows every image to each budget; here the images are shared out.
    """
    if config.fixed is not None:
        return [tokens_from_keep(config.fixed, patches)]
    lowest, smaller = max(1, round(config.low * patches)), config.budgets - 1
    spots = (torch.arange(smaller) + torch.rand(1, generator=generator)) / smaller
    counts = lowest * ((patches + 1) / lowest) ** spots
    drawn = [patches, *counts.int().clamp(max=patches).tolist()]
    return [drawn[i] for i in torch.randperm(len(drawn), generator=generator)]


def _reseed(model: Any, generator: torch.Generator) -> None:
    """The random baseline draws from the step's source too, so that it resumes like everything else."""
    for module in model.modules():
        if isinstance(module, RandomScorer):
            module.generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))


def _digest(model: nn.Module) -> str:
    text = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        text.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()
