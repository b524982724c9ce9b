"""Top-1 accuracy at budgets, with Wilson's interval for the number of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import DataError
from tokfilter.train.data import Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.labels import LabelPrecision, autocast_from_precision
from tokfilter.vit.scorers import RandomScorer

__all__ = ["CONFIDENCE", "Accuracy", "evaluate", "wilson"]

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Accuracy:
    """Top-1 at one budget.

    low, high: Wilson's interval at 95 % for this many images
    """

    tokens: int
    correct: int
    images: int
    top1: float
    low: float
    high: float


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Wilson's score interval at 95 % (E. B. Wilson, 1927). Raises ValueError without images."""
    if not 0 <= correct <= images or images == 0:
        raise ValueError(f"an interval requires 0 <= correct <= images, got {correct} of {images}")
    from scipy.stats import binomtest  # a second, which other stages of training save

    found = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


@torch.inference_mode()
def evaluate(
    model: Any,
    dataset: ImageDataset,
    keeps: Sequence[Keep],
    progress: Progress,
    batch: int = 128,
    seed: int = 0,
    processes: DistContext = SINGLE_PROCESS,
    precision: LabelPrecision = "fp32",
) -> list[Accuracy]:
    """Top-1 of a model (``finetune.Budgeted``) at each budget, largest first. Raises BudgetError, DataError.

    processes: they divide the images among themselves, and all return the sum
    precision: of the forward passes, by autocast
    """
    backbone = getattr(model, "backbone", None)
    if backbone is not None and not getattr(backbone, "num_classes", 1) and getattr(model, "mask_head", None) is None:
        raise DataError(
            "this model gives embeddings (num_classes=0) and has no top-1: tokfilter.train.similarity compares them "
            "with the full model's."
        )
    if getattr(model, "mask_head", None) is not None:
        raise DataError("this model gives masks and has no top-1: tokfilter.train.mask_evaluation measures its mIoU.")
    budgets = sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps}, reverse=True)
    device = next(model.parameters()).device
    for module in model.modules():
        if isinstance(module, RandomScorer):
            module.generator.manual_seed(seed)
    model.eval()
    correct = torch.zeros(len(budgets), dtype=torch.int64)
    mine = torch.arange(processes.rank, len(dataset), processes.size)
    for done, part in enumerate(dataset.batches(torch.split(mine, batch) if len(mine) else ())):
        images, labels = dataset.normalised(part.images, device), part.labels.to(device)
        for place, k in enumerate(budgets):
            with autocast_from_precision(precision, device):
                logits = model(images, k)
            correct[place] += (logits.argmax(1) == labels).sum().cpu()
        progress("evaluating", done * batch / len(mine))
    count, sums = len(dataset), processes.sum(correct).tolist()
    return [
        Accuracy(k, right, count, right / count, *wilson(right, count)) for k, right in zip(budgets, sums, strict=True)
    ]
