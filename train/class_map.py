"""Class maps: which classes count and in what order, as timm takes them: a text file with one class name per line."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import DataError
from tokfilter.train.data import ImageList

__all__ = ["class_map_from_file", "mapped"]


def class_map_from_file(path: Path) -> tuple[str, ...]:
    """Class names by index. Raises DataError for other files than text, empty lines, and names that come twice."""
    path = existing_file(path, "a class map")
    if path.suffix.lower() != ".txt":
        raise DataError(f"a class map wants to be a .txt file with one class name per line, got {path}.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; a class map has one class name per line.") from error
    if not names or "" in names:
        raise DataError(f"{path}: line {names.index('') + 1 if names else 1} is empty; a line's number is its class.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} names classes twice: {', '.join(twice[:5])}.")
    return tuple(names)


def mapped(images: ImageList, names: Sequence[str], report: Callable[[str], None]) -> ImageList:
    """The images of the map's classes, with the map's labels; what is left out is reported.

    Raises DataError when no image is left, or images of one class only.
    """
    index = {name: label for label, name in enumerate(names)}
    known = [position for position, label in enumerate(images.labels) if images.class_names[label] in index]
    if strangers := [name for name in images.class_names if name not in index]:
        report(
            f"left out {len(images) - len(known)} images of {len(strangers)} classes that the class map does not name: "
            f"{', '.join(strangers[:5])}{'...' if len(strangers) > 5 else ''}"
        )
    left = images.subset(known)
    labels = tuple(index[images.class_names[label]] for label in left.labels)
    if len(set(labels)) < 2:
        raise DataError(
            f"{images.root} has images of {len(set(labels))} of the class map's {len(names)} classes, two are the "
            f"least. It has {', '.join(images.class_names[:3])}, the map begins with {', '.join(names[:3])}."
        )
    return replace(left, labels=labels, class_names=tuple(names))
