"""An image file of any kind as 8-bit RGB, or the reason why not."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from tokfilter.errors import DataError

__all__ = ["rgb_from_file"]

_WIDE_MODES: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def rgb_from_file(path: Path) -> Image.Image:
    """Read an image upright and as RGB: grey repeated, 16 bits scaled to 8, what is transparent laid on white.

    Raises DataError that names the file: not an image, damaged, cut short, too large, or pixels without a known range.
    """
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders of damaged files raise what they like; the answer is the same
        raise DataError(f"{path}: {str(error).strip() or type(error).__name__}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        image = _eight_bits(image)
    if image.mode == "F":
        raise DataError("floating-point pixels have no agreed range; convert it to 8 or 16 bits per channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8, where Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError("32-bit pixels have no agreed range; convert it to 8 or 16 bits per channel")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
