"""Class names of a checkpoint: ``id2label`` of transformers, ``label_names`` of timm."""

from collections.abc import Sequence
from typing import Any

from tokfilter.errors import DataError

__all__ = ["class_names_from_labels", "naming_note", "same_names"]


def class_names_from_labels(labels: Any, classes: int, source: str) -> tuple[str, ...]:
    """Names by index, from a list or from {index: name}; empty for none and for placeholders (LABEL_0).

    Raises DataError for another number of names than classes, gaps, and what is no text.
    """
    if labels is None:
        return ()
    if isinstance(labels, dict):
        found = [labels.get(str(i)) for i in range(min(classes, len(labels)))]
        labels = found if len(labels) == classes else [None] * len(labels)
    if not isinstance(labels, list) or len(labels) != classes:
        count = len(labels) if isinstance(labels, list) else 0
        raise DataError(f"{source}: expected names for the {classes} classes of the classifier, got {count}.")
    names = []
    for i, name in enumerate(labels):
        if not isinstance(name, str) or not 1 <= len(name) <= 1000 or not name.isprintable():
            raise DataError(f"{source}: the name of class {i} must be a printable text, got {name!r:.100}.")
        names.append(name)
    placeholders = all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(names))
    return () if placeholders else tuple(names)


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether both are the same classes, each once, in any order."""
    return len(set(names)) == len(names) == len(others) and set(names) == set(others)


def naming_note(names: Sequence[str], others: Sequence[str]) -> str:
    """What differs between the names of a checkpoint and of the data; empty when nothing does."""
    if not names or tuple(names) == tuple(others) or len(names) != len(others):
        return ""
    i = next(i for i, (ours, theirs) in enumerate(zip(names, others, strict=True)) if ours != theirs)
    return (
        f"the checkpoint calls class {i} {names[i][:100]!r}, the data {others[i][:100]!r}: the order of the data's "
        "names is taken as the checkpoint's. If it is another, give --class-map with the folders' names in that order."
    )
