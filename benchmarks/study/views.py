"""Windows of photographs, for retrieval: the test images are two views of each window, the training images are single.

Photographs are those of objects-in-photographs (``photo_sources.py``): 20 for training, 9 others for the test.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokfilter.benchmarks.study.photo_sources import sources_from_wheels

__all__ = ["SIDE", "two_views", "write_views"]

Pixels = NDArray[np.uint8]

SIDE: Final = 98
"""Height and width in pixels."""

_LARGEST: Final = 0.7
"""Largest side of a window, as a fraction of its photograph's smaller one."""
_SHIFT: Final = 0.12
"""Largest shift of the second view against the first, as a fraction of its side; its size changes by as much."""


def write_views(folder: Path, wheels: Path, train: int, test: int) -> None:
    """Write ``folder/train/<number>.jpg``, and ``folder/test/<window>/0.jpg`` and ``1.jpg``, unless they are there.

    train: images
    test: windows, two images each
    Raises DataError where a wheel is missing.
    """
    if (folder / "complete").is_file():
        return
    for split, count in (("train", train), ("test", test)):
        photographs = list(sources_from_wheels(split, wheels).photographs.values())
        for number in range(count):
            rng = np.random.default_rng([split == "test", number])
            first, second = two_views(photographs[number % len(photographs)], rng)
            if split == "train":
                _save(first, folder / split / f"{number:05}.jpg")
                continue
            for place, image in enumerate((first, second)):
                _save(image, folder / split / f"{number:05}" / f"{place}.jpg")
    (folder / "complete").touch()


def two_views(photograph: Pixels, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A window of a photograph [H, W, 3], and the same of a slightly other size, shifted and mirrored; SIDE pixels."""
    height, width = photograph.shape[:2]
    smaller = min(height, width)
    low = min(SIDE, _LARGEST * smaller)
    side = float(np.exp(rng.uniform(np.log(low), np.log(_LARGEST * smaller))))
    top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
    image = Image.fromarray(photograph)
    scale = 1 + rng.uniform(-_SHIFT, _SHIFT)
    down, right = rng.uniform(-_SHIFT, _SHIFT, 2) * side
    second = _window(image, top + down, left + right, side * scale)
    return _window(image, top, left, side), second.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _window(image: Image.Image, top: float, left: float, side: float) -> Image.Image:
    """The window, moved inside the image where it is outside."""
    side = min(side, *image.size)
    left, top = (min(max(0.0, at), size - side) for at, size in ((left, image.width), (top, image.height)))
    box = (left, top, left + side, top + side)
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box, reducing_gap=2.0)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)
