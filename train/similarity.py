"""How near the outputs at budgets are to the full model's: cosine, and recall@1 of nearest neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.neighbours import Retrieval, retrieval_of
from tokfilter.errors import DataError
from tokfilter.train.data import Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.evaluation import wilson
from tokfilter.vit.model import FilteredViT

__all__ = ["Similarity", "evaluate_similarity", "full_outputs"]

_BATCH = 128


@dataclass(frozen=True)
class Similarity:
    """Outputs of the test images at one budget (``artifacts/neighbours.py``).

    cosine: mean cosine with the reference's output, the full model's
    correct, recall: queries whose nearest neighbour is right, and their fraction (recall@1)
    low, high: Wilson's interval at 95 % of recall, for this many queries
    queries: images, without those that are alone in their class
    truth: classes (a right neighbour has the query's class), or neighbours (it is the reference's neighbour)
    same: fraction of images whose nearest neighbour is the reference's
    agree: fraction of images whose first class is the reference's; None for embeddings
    """

    tokens: int
    images: int
    cosine: float
    correct: int
    queries: int
    recall: float
    low: float
    high: float
    truth: str
    same: float
    agree: float | None


def evaluate_similarity(
    model: FilteredViT,
    dataset: ImageDataset,
    keeps: Sequence[Keep],
    progress: Progress,
    reference: torch.Tensor | None = None,
    batch: int = _BATCH,
    processes: DistContext = SINGLE_PROCESS,
) -> list[Similarity]:
    """Compare the outputs at each budget, largest first, with the full model's.

    reference: [n, C], of ``full_outputs``; None: the outputs of ``model`` with every token
    processes: they divide the images among themselves, and all return the same
    Raises DataError for a model that gives masks, zero outputs and fewer than two images; BudgetError.
    """
    budgets = sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps}, reverse=True)
    wanted = [model.num_patches, *budgets] if reference is None else budgets
    every = _outputs(model, dataset, wanted, progress, batch, processes)
    full = every[model.num_patches] if reference is None else reference.numpy()
    labels = dataset.images.labels if dataset.images.labelled else None
    return [_row(k, every[k], full, retrieval_of(every[k], full, labels), model) for k in budgets]


def full_outputs(
    model: FilteredViT,
    dataset: ImageDataset,
    progress: Progress,
    batch: int = _BATCH,
    processes: DistContext = SINGLE_PROCESS,
) -> torch.Tensor:
    """Outputs of every image with every token, [n, C] on the CPU: what a trained model is compared with.

    processes: they divide the images among themselves, and all return every row
    """
    every = _outputs(model, dataset, [model.num_patches], progress, batch, processes)
    return torch.from_numpy(every[model.num_patches])


@torch.inference_mode()
def _outputs(
    model: FilteredViT,
    dataset: ImageDataset,
    budgets: Sequence[int],
    progress: Progress,
    batch: int,
    processes: DistContext,
) -> dict[int, Any]:
    """Budget -> outputs [n, C] as numpy arrays."""
    if model.mask_head is not None:
        raise DataError("this model gives masks: tokfilter.train.mask_evaluation measures its mIoU.")
    device = next(model.parameters()).device
    model.eval()
    width = model.output_shape[0]
    every = {k: torch.zeros(len(dataset), width) for k in dict.fromkeys(budgets)}
    mine = torch.arange(processes.rank, len(dataset), processes.size)
    for done, part in enumerate(dataset.batches(torch.split(mine, batch) if len(mine) else ())):
        images = dataset.normalised(part.images, device)
        for k, rows in every.items():
            rows[part.positions] = model(images, k).float().cpu()
        progress("comparing with the full model", done * batch / len(mine))
    return {k: processes.sum(rows).numpy() for k, rows in every.items()}  # the others' rows are zero: sums are exact


def _row(k: int, outputs: Any, full: Any, found: Retrieval, model: FilteredViT) -> Similarity:
    agree = float((outputs.argmax(1) == full.argmax(1)).mean()) if model.backbone.num_classes else None
    interval = wilson(found.found, found.queries)
    return Similarity(
        k,
        len(outputs),
        found.cosine,
        found.found,
        found.queries,
        found.recall,
        *interval,
        found.truth,
        found.same,
        agree,
    )
