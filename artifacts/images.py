"""Decoding of image files to upright 8-bit RGB, the same for training, prediction and services."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import DataError

__all__ = ["image_from_bytes", "open_image", "rgb_from_image"]

_WIDE_MODES: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_BOMB: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def open_image(path: str | Path) -> Image.Image:
    """Read an image file as an upright RGB image (``rgb_from_image``).

    Raises DataError when there is no such file, when it is no image or a damaged one, and when it is so large that it
    could exhaust the memory (Pillow's limit for decompression bombs).
    """
    path = existing_file(path, "an image")
    return _decoded(path, str(path))


def image_from_bytes(content: bytes, name: str) -> Image.Image:
    """The same from the bytes of an image file. Raises DataError with ``name``."""
    return _decoded(io.BytesIO(content), name)


def _decoded(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(source) as image:
            return rgb_from_image(image)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that Pillow can read. Give a JPEG, PNG, WebP or TIFF file.") from error
    except _BOMB as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DataError(f"{name} is refused: it has far more than {limit} million pixels. Scale it down.") from error
    except Exception as error:  # decoders raise many types for damaged files; the remedy is the same
        raise DataError(f"{name} could not be read, it may be damaged or cut short: {error}.") from error


def rgb_from_image(image: Image.Image) -> Image.Image:
    """An 8-bit RGB image as a viewer shows it.

    EXIF orientation applied; 16 bits scaled to 8 (Pillow alone would clip); transparency blended onto white.
    Raises DataError for 32-bit pixels, whose range is not defined.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE_MODES:
        image = _eight_bits(image)
    if image.mode == "F":
        raise DataError("floating-point pixels have no agreed range. Convert it to 8 or 16 bits per channel.")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError("32-bit pixels have no agreed range. Convert it to 8 or 16 bits per channel.")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
