"""Pictures that a page starts with: from a folder of the user's, else the golden images of the export."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.manifest import Manifest
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Preprocess

__all__ = ["write_samples"]

_COUNT: Final = 8
_EDGE: Final = 768
"""Longest edge of a sample in pixels: the whole page is to load on a phone."""

_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def write_samples(
    folder: Path, directory: Path, manifest: Manifest, transform: Preprocess, images: Path | None
) -> list[dict[str, Any]]:
    """Write up to 8 samples to ``folder``, without the originals' names and metadata.

    images: a folder of image files, at any depth, of which some at equal distances are taken
    Returns an item of page.json for each; "prepared" ones have been resized and cropped to the model's input.
    Raises DataError.
    """
    folder.mkdir()
    prepared = images is None
    pictures = _golden(directory, manifest, transform) if images is None else _from_folder(images)
    items = []
    for i, picture in enumerate(pictures):
        # PNG keeps every pixel, JPEG keeps photographs small.
        name = f"{i}.png" if prepared or max(picture.size) <= 128 else f"{i}.jpg"
        picture.save(folder / name, quality=92, subsampling=0)
        items.append({"path": f"{folder.name}/{name}", "prepared": prepared})
    return items


def _golden(directory: Path, manifest: Manifest, transform: Preprocess) -> Iterator[Image.Image]:
    for image in golden_of(directory, manifest).images[:_COUNT]:
        yield transform.view_from_input(image)


def _from_folder(folder: Path) -> Iterator[Image.Image]:
    if not folder.is_dir():
        raise DataError(f"--images must be a folder with image files, but there is none at {folder}.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"--images: {folder} holds no image file ({', '.join(sorted(_SUFFIXES))}).")
    count = min(_COUNT, len(files))
    for i in range(count):
        middle = len(files) * (2 * i + 1) // (2 * count)
        part = range(len(files) * i // count, len(files) * (i + 1) // count)
        picture = _readable([files[place] for place in sorted(part, key=lambda place: abs(place - middle))])
        picture.thumbnail((_EDGE, _EDGE), Image.Resampling.LANCZOS)
        yield Image.fromarray(np.asarray(picture))  # pixels only: no EXIF, no place where the photo was taken


def _readable(files: list[Path]) -> Image.Image:
    """The first image that can be read: one damaged file ends no page. Raises DataError where none can."""
    for file in files[:-1]:
        with suppress(DataError):
            return open_image(file)
    return open_image(files[-1])
