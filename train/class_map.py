"""Images in the order of a class map (``class_map_file.py``)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tokfilter.errors import DataError
from tokfilter.train.data import ImageList

__all__ = ["mapped"]


def mapped(images: ImageList, names: Sequence[str], report: Callable[[str], None]) -> ImageList:
    """The images whose class is in the map, with the map's class indices; the number left out is reported.

    Raises DataError when images of fewer than two classes remain.
    """
    index = {name: label for label, name in enumerate(names)}
    known = [position for position, label in enumerate(images.labels) if images.class_names[label] in index]
    if unknown := [name for name in images.class_names if name not in index]:
        report(
            f"left out {len(images) - len(known)} images of {len(unknown)} classes that are not in the class map: "
            f"{', '.join(unknown[:5])}{'...' if len(unknown) > 5 else ''}"
        )
    chosen = images.subset(known)
    labels = tuple(index[images.class_names[label]] for label in chosen.labels)
    if len(set(labels)) < 2:
        raise DataError(
            f"{images.root} has images of {len(set(labels))} of the class map's {len(names)} classes, training needs "
            f"at least 2. The images have {', '.join(images.class_names[:3])}; the map has {', '.join(names[:3])}..."
        )
    return replace(chosen, labels=labels, class_names=tuple(names))
