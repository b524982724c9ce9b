"""Images that a command names: files, folders, and text files with one path on each line."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.images import image_extensions
from tokfilter.artifacts.limits import MAX_FOLDERS, MAX_IMAGE_LIST
from tokfilter.errors import DataError

__all__ = ["LIST_SUFFIX", "NamedImage", "images_from_paths", "picture_names"]

LIST_SUFFIX: Final = ".txt"


@dataclass(frozen=True)
class NamedImage:
    """An image file.

    place: its path within the folder that was named; its file name where the file was named, or stands in a list
    """

    path: Path
    place: Path


def images_from_paths(paths: Sequence[Path]) -> list[NamedImage]:
    """Image files in the order of ``paths``; of a folder all within it by name, links to other folders not followed.

    Paths in a list are relative to the working directory. No image is opened.
    Raises DataError for a path that does not exist, and for a folder or a list without images.
    """
    found: list[NamedImage] = []
    for path in paths:
        if path.is_dir():
            new = list(_in_folder(path))
        elif path.suffix.lower() == LIST_SUFFIX:
            new = list(_in_list(path))
        else:
            new = [NamedImage(existing_file(path, "an image"), Path(path.name))]
        if not new:
            raise DataError(f"{path} names no image: expected files of {', '.join(sorted(image_extensions()))}.")
        found += new
    return found


def _in_folder(folder: Path) -> Iterator[NamedImage]:
    extensions = image_extensions()
    for count, (where, folders, files) in enumerate(os.walk(folder, onerror=_refused)):
        if count == MAX_FOLDERS:
            raise DataError(f"{folder} must have at most {MAX_FOLDERS} folders within it, and has more.")
        folders.sort()
        for name in sorted(files):
            path = Path(where, name)
            if path.suffix.lower() in extensions and not name.startswith("."):
                yield NamedImage(path, path.relative_to(folder))


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error


def _in_list(path: Path) -> Iterator[NamedImage]:
    size = existing_file(path, "a list of images").stat().st_size
    if size > MAX_IMAGE_LIST:
        raise DataError(f"{path}: a list of images must have at most {MAX_IMAGE_LIST >> 20} MiB, got {size >> 20}.")
    content = path.read_bytes()
    if b"\0" in content:
        raise DataError(f"{path} is no list of images: expected text with one path on each line.")
    for line in content.splitlines():
        name = os.fsdecode(line.strip())
        if name:
            yield NamedImage(Path(name), Path(Path(name).name or "image"))


def picture_names(images: Iterable[NamedImage]) -> Iterator[Path]:
    """A path for the picture of each image, relative to the folder of the pictures; no two are equal."""
    taken: set[Path] = set()
    numbers: dict[Path, int] = {}  # of the last picture of each place
    for image in images:
        number = numbers.get(image.place, 0)
        while True:
            number += 1
            name = image.place.with_name(f"{image.place.name}{f'-{number}' * (number > 1)}.png")
            if name not in taken:
                break
        numbers[image.place] = number
        taken.add(name)
        yield name
