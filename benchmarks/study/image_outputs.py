"""Logits of test images at every budget, from which rules of a budget per image are compared without further passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokfilter.artifacts.files import atomic_path
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.runtime.predict import probabilities_from_logits
from tokfilter.train.data import Progress
from tokfilter.train.dataset import ImageDataset
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["ImageOutputs", "outputs_from_model", "saved_outputs", "scoring_macs"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageOutputs:
    """One model on n images at K budgets.

    budgets: [K], in tokens, ascending, every token last
    logits: [n, K, classes] float32
    scores: [n, N] float32, of the filter
    labels: [n]
    macs: [K], multiply-accumulates at each budget
    scoring: [], those of patch embedding and filter alone
    """

    budgets: Array
    logits: Array
    scores: Array
    labels: Array
    macs: Array
    scoring: Array

    @cached_property
    def correct(self) -> Array:
        """[n, K], whether the class is right."""
        right: Array = self.logits.argmax(2) == self.labels[:, None]
        return right

    @cached_property
    def confidence(self) -> dict[str, Array]:
        """Signal -> [n, K], higher is more certain: highest probability, its margin to the second, negative entropy."""
        shares = probabilities_from_logits(self.logits)
        ordered = np.partition(shares, -2, axis=2)
        entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(2)
        return {
            "probability": ordered[..., -1],
            "margin": ordered[..., -1] - ordered[..., -2],
            "entropy": -entropy,
        }


def saved_outputs(
    path: Path,
    model: FilteredViT,
    dataset: Callable[[], ImageDataset],
    budgets: Sequence[int],
    progress: Progress,
) -> ImageOutputs:
    """The outputs in ``path`` (npz), computed and written where there is no such file."""
    if not path.is_file():
        found = outputs_from_model(model, dataset(), budgets, progress)
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, **{field.name: getattr(found, field.name) for field in fields(found)})
    with path.open("rb") as file:
        return ImageOutputs(**arrays_from_npz(file))


@torch.inference_mode()
def outputs_from_model(
    model: FilteredViT, dataset: ImageDataset, budgets: Sequence[int], progress: Progress, batch: int = 250
) -> ImageOutputs:
    """Run every image at every budget of ``budgets``, ascending."""
    model.eval()
    logits, scores, labels = [], [], []
    for done, part in enumerate(dataset.in_order(batch)):
        images = dataset.normalised(part.images)
        logits.append(np.stack([model(images, k).numpy() for k in budgets], axis=1))
        scores.append(model.scores(images).numpy())
        labels.append(part.labels.numpy())
        progress("every budget", done * batch / len(dataset))
    counts = np.array([macs(model, k, fake=False) for k in budgets])
    return ImageOutputs(
        np.array(budgets),
        np.concatenate(logits),
        np.concatenate(scores),
        np.concatenate(labels),
        counts,
        np.array(scoring_macs(model)),
    )


def scoring_macs(model: FilteredViT) -> int:
    """Multiply-accumulates of patch embedding and filter for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = model.embed(torch.zeros(1, 3, *model.backbone.patch_embed.img_size))
        model.scorer(tokens[:, model.prefix_tokens :])
    return int(counter.get_total_flops()) // 2
