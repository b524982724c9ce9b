"""Pictures of masks: each pixel of the image in the colour of its class.

Pure functions of arrays and Pillow images; neither torch nor an engine is needed.
"""

import colorsys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokfilter.errors import DataError

__all__ = ["BACKGROUND", "classes_from_masks", "mask_colours", "mask_picture"]

BACKGROUND: Final = "background"
"""A class of this name is not coloured."""

_OPACITY: Final = 0.6
_GOLDEN: Final = 0.61803398875  # steps of the golden ratio keep neighbouring hues apart, for any number of classes

Classes = npt.NDArray[np.int64]


def classes_from_masks(masks: npt.NDArray[Any]) -> Classes:
    """The class of each pixel. masks: [M, H', W'], logits; of equal ones the lower class. Returns [H', W']."""
    classes: Classes = masks.argmax(axis=0)
    return classes


def mask_colours(count: int) -> npt.NDArray[np.float32]:
    """Colours of ``count`` classes, [count, 3] in 0..255."""
    hues = [(0.02 + _GOLDEN * i) % 1.0 for i in range(count)]
    return np.array([colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues], dtype=np.float32).reshape(-1, 3) * 255


def mask_picture(view: Image.Image, classes: Classes, class_names: Sequence[str], scale: int = 1) -> Image.Image:
    """The view under the colours of its classes; a class called "background" is left as it is.

    view: the model's input before normalisation
    classes: [H', W'], class of each pixel of the masks, enlarged to the view by repetition
    scale: each pixel becomes scale x scale pixels
    Raises DataError for a class without a name, where there are names.
    """
    count = len(class_names) or int(classes.max()) + 1
    if not 0 <= int(classes.min()) <= int(classes.max()) < count:
        raise DataError(f"masks have classes {classes.min()} to {classes.max()}, and there are names for {count}.")
    size = (view.width * scale, view.height * scale)
    pixels = np.asarray(view.convert("RGB").resize(size, Image.Resampling.NEAREST), dtype=np.float32)
    rows, columns = (np.arange(n) * m // n for n, m in zip(pixels.shape[:2], classes.shape, strict=True))
    drawn = classes[rows[:, None], columns[None, :]]
    opacity = np.full(count, _OPACITY, dtype=np.float32)
    for place, name in enumerate(class_names):
        if name.lower() == BACKGROUND:
            opacity[place] = 0
    strength = opacity[drawn][..., None]
    mixed = (1 - strength) * pixels + strength * mask_colours(count)[drawn]
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
