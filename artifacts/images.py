"""Decoding of image files to upright 8-bit RGB, the same for training, prediction and services."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.limits import IMAGE_FORMATS, MAX_IMAGE_FILE, MAX_IMAGE_PIXELS
from tokfilter.errors import DataError

__all__ = ["image_extensions", "image_from_bytes", "open_image", "rgb_from_image"]

_WIDE_MODES: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_STRIP_PIXELS: Final = 200_000


def image_extensions() -> set[str]:
    """Extensions of the names of image files in IMAGE_FORMATS, with the dot, in lower case."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS}


def open_image(path: str | Path) -> Image.Image:
    """Read an image file as an upright RGB image (``rgb_from_image``).

    Raises DataError when there is no such file, when it is no image of IMAGE_FORMATS or a damaged one, and when it has
    more than MAX_IMAGE_PIXELS (``limits.py``).
    """
    path = existing_file(path, "an image")
    if (size := path.stat().st_size) > MAX_IMAGE_FILE:
        raise DataError(f"{path}: an image file must have at most {MAX_IMAGE_FILE >> 20} MiB, got {size >> 20}.")
    return _decoded(path, str(path))


def image_from_bytes(content: bytes, name: str) -> Image.Image:
    """The same from the bytes of an image file. Raises DataError with ``name``."""
    return _decoded(io.BytesIO(content), name)


def _decoded(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a limit of our own follows
            image = Image.open(source, formats=IMAGE_FORMATS)
        with image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise DataError(_too_many(f"{image.width} x {image.height} pixels"))
            return rgb_from_image(image)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image of a known format. Give one of {', '.join(IMAGE_FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {_too_many('far more')}") from error
    except Exception as error:  # decoders raise many types for damaged files; the remedy is the same
        raise DataError(f"{name} could not be read, it may be damaged or cut short: {error}.") from error


def _too_many(found: str) -> str:
    return f"expected at most {MAX_IMAGE_PIXELS // 10**6} million pixels, got {found}. Scale the image down."


def rgb_from_image(image: Image.Image) -> Image.Image:
    """An 8-bit RGB image as a viewer shows it.

    EXIF orientation applied; 16 bits scaled to 8 (Pillow alone would clip); transparency blended onto white.
    Raises DataError for 32-bit pixels, whose range is not defined.
    """
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)  # a copy, even of an upright image
    if image.mode in _WIDE_MODES:
        image = _by_strips(image, "L", _eight_bits)
    if image.mode == "F":
        raise DataError("floating-point pixels have no agreed range. Convert it to 8 or 16 bits per channel.")
    return _by_strips(image, "RGB", _blended) if image.has_transparency_data else image.convert("RGB")


def _by_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """``convert`` applied to strips of rows: what it needs beside its result is bounded."""
    result = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        result.paste(convert(image.crop((0, top, image.width, min(image.height, top + rows)))), (0, top))
    return result


def _blended(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError("32-bit pixels have no agreed range. Convert it to 8 or 16 bits per channel.")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
