"""Mean intersection over union (mIoU) of a model that gives masks, at several budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import DataError
from tokfilter.train.dataset import TrainingData
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import RandomScorer

__all__ = ["MaskAccuracy", "evaluate_masks", "iou_from_counts", "pixel_counts"]

Counts = npt.NDArray[np.int64]

_RESAMPLES = 1000


@dataclass(frozen=True)
class MaskAccuracy:
    """mIoU at one budget.

    miou: mean over the classes that labels or predictions have
    low, high: bootstrap over images, 95 %
    iou: of each class; None where neither labels nor predictions have it
    """

    tokens: int
    images: int
    miou: float
    low: float
    high: float
    iou: tuple[float | None, ...]


@torch.inference_mode()
def evaluate_masks(
    model: FilteredViT, dataset: TrainingData, keeps: Sequence[Keep], batch: int = 64, seed: int = 0
) -> list[MaskAccuracy]:
    """mIoU at each budget, largest first. The labels of ``dataset`` are [n, H', W'], a class per pixel.

    Raises DataError for a model without a mask head, BudgetError.
    """
    if model.mask_head is None:
        raise DataError("this model gives no masks: tokfilter.add_mask_head gives it a mask head.")
    masks, device = model.mask_head.config.masks, next(model.parameters()).device
    budgets = sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps}, reverse=True)
    model.eval()
    if isinstance(model.scorer, RandomScorer):
        model.scorer.generator.manual_seed(seed)
    counts: dict[int, list[Counts]] = {k: [] for k in budgets}
    for part in dataset.batches(torch.split(torch.arange(len(dataset)), batch)):
        images, labels = dataset.normalised(part.images, device), part.labels.to(device)
        for k in budgets:
            counts[k].append(pixel_counts(model(images, k).argmax(1), labels, masks))
    return [_accuracy(k, np.concatenate(parts), seed) for k, parts in counts.items()]


def pixel_counts(found: Tensor, labels: Tensor, classes: int) -> Counts:
    """Pixels of each image and class. Pixels whose label lies outside 0..classes-1 are not counted.

    found, labels: [B, H', W'], classes of pixels
    Returns [B, classes, 2]: pixels of the intersection and of the union.
    """
    valid = (labels >= 0) & (labels < classes)
    rows = []
    for cls in range(classes):
        there, said = (labels == cls) & valid, (found == cls) & valid
        rows.append(torch.stack([(there & said).flatten(1).sum(1), (there | said).flatten(1).sum(1)], dim=1))
    counts: Counts = torch.stack(rows, dim=1).cpu().numpy()
    return counts


def iou_from_counts(counts: Counts) -> npt.NDArray[np.float64]:
    """Intersection over union of each class, NaN where the union is empty. counts: [..., classes, 2]."""
    with np.errstate(invalid="ignore"):
        ratio: npt.NDArray[np.float64] = counts[..., 0] / np.where(counts[..., 1] > 0, counts[..., 1], np.nan)
    return ratio


def _accuracy(k: int, counts: Counts, seed: int) -> MaskAccuracy:
    """counts: [n, classes, 2]."""
    iou = iou_from_counts(counts.sum(axis=0))
    drawn = np.random.default_rng(seed).multinomial(len(counts), [1 / len(counts)] * len(counts), _RESAMPLES)
    resampled = np.nanmean(iou_from_counts(np.tensordot(drawn, counts, axes=1)), axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    shown = tuple(None if np.isnan(value) else float(value) for value in iou)
    return MaskAccuracy(k, len(counts), float(np.nanmean(iou)), float(low), float(high), shown)
