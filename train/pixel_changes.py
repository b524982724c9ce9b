"""Random changes of single images by timm: random resized crop, automatic augmentation, colour jitter, erasing.

timm and torchvision draw from three global generators (Python's, numpy's, torch's). Here each image has a seed of its
own, and the generators are as before afterwards: an image's changes depend on (seed, stage, step, image) alone.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.share import Share

__all__ = ["PixelChange", "erased", "image_seed", "seeded"]

_TURNING: Final = ("nearest", "bilinear", "bicubic")
"""Interpolations that Pillow has for rotations and shears; the crop's and theirs are the same in timm."""


class PixelChange:
    """timm's changes of one image, but erasing, which comes after the normalisation.

    crops: whether it takes the whole image and crops it; otherwise the image as the model takes it
    """

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing) -> None:
        self.crops = augmentation.crop_scale > 0
        own, (_, height, width) = preprocessing.interpolation, preprocessing.input_size
        crop, change, finish = transforms_imagenet_train(
            img_size=(height, width),
            scale=(augmentation.crop_scale, 1.0),
            hflip=0.0,
            color_jitter=augmentation.jitter,
            force_color_jitter=True,  # timm alone leaves jitter out where there is a policy
            auto_augment=augmentation.auto_augment,
            interpolation=own if own in _TURNING else "bicubic",
            mean=tuple(preprocessing.mean),
            normalize=False,
            separate=True,
        )
        for operation in _operations(change.transforms):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterized
        self._parts: list[Any] = [*([crop] if self.crops else []), change, finish]

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """The changed image, [3, H, W], uint8."""
        changed: Any = image
        with seeded(seed):
            for part in self._parts:
                changed = part(changed)
        pixels: Tensor = changed
        return pixels


def _operations(parts: Iterable[Any]) -> Iterator[Any]:
    """Single operations of timm's policies."""
    for part in parts:
        yield from getattr(part, "ops", ())
        yield from (operation for some in getattr(part, "policy", ()) for operation in some)


def _posterized(image: Image.Image, bits: int, **unused: Any) -> Image.Image:
    """timm asks for 0 bits at the strongest magnitude, which Pillow 13 refuses: at least one is kept."""
    return ImageOps.posterize(image, max(1, bits)) if bits < 8 else image


def erased(images: Tensor, probability: float, generator: torch.Generator, share: Share | None = None) -> Tensor:
    """A rectangle of some images replaced by normal noise, by timm's RandomErasing in its mode ``pixel``.

    images: [b, 3, H, W], normalised
    share: which images of the step these are, None for all
    The noise is drawn on the CPU, so that it is the same for every device. Returns [b, 3, H, W].
    """
    eraser: Any = RandomErasing(probability, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
    step = int(torch.randint(2**31, (), generator=generator))
    places = range(len(images)) if share is None else share.places.tolist()
    rows, noise = list[int](), list[Tensor]()
    for row, place in enumerate(places):
        canvas = torch.full(images.shape[1:], torch.nan)
        with seeded(image_seed(step, place)):
            eraser(canvas)
        if not canvas[0].isnan().all():
            rows.append(row)
            noise.append(canvas)
    if not rows:
        return images
    changed, drawn = images.clone(), torch.stack(noise).to(images.device, images.dtype)
    changed[rows] = torch.where(drawn.isnan(), images[rows], drawn)
    return changed


def image_seed(step: int, image: int) -> int:
    """Seed of an image in a step, of 32 bits, as numpy takes them. step: the step's own seed."""
    return int.from_bytes(hashlib.blake2b(f"{step} {image}".encode(), digest_size=4).digest(), "little")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python, numpy and torch's CPU with a seed of 32 bits; afterwards as before."""
    python, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)
