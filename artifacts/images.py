"""Decoding of image files to upright 8-bit RGB, the same for training, prediction and services."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.limits import (
    DECODING_BYTES,
    IMAGE_FORMATS,
    MAX_DECODING,
    MAX_IMAGE_FILE,
    MAX_IMAGE_PIXELS,
)
from tokfilter.errors import DataError

__all__ = ["image_extensions", "image_from_bytes", "open_image", "rgb_from_image"]

_WIDE_MODES: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_STRIP_PIXELS: Final = 200_000
_TILE_SIDES: Final = (322, 323)
"""Tags of a TIFF file: width and height of its tiles, each of which is decoded at once."""
_PLAIN_PIXELS: Final = 1_000_000
"""Of a PPM file whose pixels are written as text; Pillow reads each number by Python code."""


def image_extensions() -> set[str]:
    """Extensions of the names of image files in IMAGE_FORMATS, with the dot, in lower case."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS}


def open_image(path: str | Path) -> Image.Image:
    """Read an image file as an upright RGB image (``rgb_from_image``).

    Raises DataError when there is no such file, when it is no image of IMAGE_FORMATS or a damaged one, and when it has
    more than MAX_IMAGE_PIXELS or takes more memory than MAX_DECODING (``limits.py``).
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
            _check_size(image, len(source.getbuffer()) if isinstance(source, io.BytesIO) else 0)
            if _is_turned(image):
                ImageOps.exif_transpose(image, in_place=True)  # the pixels as they lie in the file are freed
            return rgb_from_image(image)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image of a known format. Give one of {', '.join(IMAGE_FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {_too_many('far more')}") from error
    except Exception as error:  # decoders raise many types for damaged files; the remedy is the same
        raise DataError(f"{name} could not be read, it may be damaged or cut short: {error}.") from error


def _check_size(image: Image.Image, held: int) -> None:
    """Raise DataError where an opened image has too many pixels, or would take too much memory.

    held: bytes of its file in memory
    """
    size = f"{image.width} x {image.height} pixels"
    pixels = image.width * image.height
    if pixels > MAX_IMAGE_PIXELS:
        raise DataError(_too_many(size))
    form = "JPEG" if image.format == "MPO" else str(image.format)
    one = 9 if form == "JPEG" and _has_one_scan(image) else DECODING_BYTES.get(form, 9)
    tile_width, tile_height = (int(getattr(image, "tag_v2", {}).get(tag, 0)) for tag in _TILE_SIDES)
    needed = max(pixels, tile_width * tile_height) * one + held
    if needed > MAX_DECODING:
        raise DataError(
            f"decoding it would take up to {needed // 10**6} MB, expected at most {MAX_DECODING // 10**6}, got {size} "
            f"of {form}. Scale the image down, or save it as PNG or JPEG (not progressive)."
        )
    tiles = getattr(image, "tile", ())
    if tiles and tiles[0][0] == "ppm_plain" and pixels > _PLAIN_PIXELS:
        raise DataError(f"its pixels are text, expected at most {_PLAIN_PIXELS} of them, got {size}. Save it as PNG.")


def _has_one_scan(image: Image.Image) -> bool:
    """Whether an opened JPEG file has all its components in its first scan, in full.

    Otherwise libjpeg holds the coefficients of the whole image (its documentation, "Memory management").
    """
    file, layers = getattr(image, "fp", None), getattr(image, "layers", 0)
    if "progressive" in image.info or file is None:
        return False
    start = bytes((0xFF, 0xDA, 0, 6 + 2 * layers, layers))  # Pillow has read up to the end of this segment
    place = file.tell()
    file.seek(max(0, place - 8 - 2 * layers))
    found: bool = file.read(len(start)) == start
    file.seek(place)
    return found


def _is_turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def _too_many(found: str) -> str:
    return f"expected at most {MAX_IMAGE_PIXELS // 10**6} million pixels, got {found}. Scale the image down."


def rgb_from_image(image: Image.Image) -> Image.Image:
    """An 8-bit RGB image as a viewer shows it.

    EXIF orientation applied; 16 bits scaled to 8 (Pillow alone would clip); transparency blended onto white.
    Raises DataError for 32-bit pixels, whose range is not defined.
    """
    if _is_turned(image):
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
