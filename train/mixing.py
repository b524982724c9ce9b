"""Mixup and cutmix by timm, with the step's own random numbers; images i and B - 1 - i of a step are mixed."""

from typing import Any

import torch
from timm.data.mixup import Mixup
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.train.pixel_changes import seeded

__all__ = ["check_mixing", "mixed"]


def mixed(
    images: Tensor,
    labels: Tensor,
    mixup: float,
    cutmix: float,
    classes: int,
    smoothing: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix each image with the one at its mirrored place, all by the same fraction, by mixup or by cutmix.

    images: [b, 3, H, W], those of a share of a step, which has an image and its mirror both
    labels: [b], classes
    mixup, cutmix: alpha of the beta distribution of the fraction; 0: not this one
    Returns images [b, 3, H, W] and smoothed labels [b, classes].
    """
    mixer: Any = Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=classes)  # type: ignore[no-untyped-call]
    with seeded(int(torch.randint(2**31, (), generator=generator))):
        blended, targets = mixer(images.clone(), labels)
    return blended, targets


def check_mixing(images: int, masks: bool = False) -> None:
    """Raise DataError for a step of an odd number of images, whose middle one has no other to be mixed with.

    masks: whether the labels are classes of pixels, which are not mixed: raises DataError, too
    """
    if masks:
        raise DataError(
            "mixup and cutmix mix the classes of two images, and this model has a mask head, with a class for each "
            "pixel: set data.mixup and data.cutmix to 0."
        )
    if images % 2:
        raise DataError(
            f"mixup and cutmix mix the images of a step in pairs, so their number must be even, got {images}: change "
            "the batch, or set data.mixup and data.cutmix to 0."
        )
