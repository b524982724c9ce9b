"""Top-1 of an engine on labelled images, at several budgets, without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.manifest import ModelCard
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import preprocess_from_card
from tokfilter.runtime.session import Array, Session

__all__ = ["drops_from_images", "labelled_files", "top1"]

_BATCH = 8


def drops_from_images(
    full: Session, filtered: Session, card: ModelCard, folder: Path, budgets: Sequence[int]
) -> dict[int, float]:
    """Budget -> loss of top-1 against the full model on a folder with one subfolder per class. Raises DataError."""
    files = labelled_files(folder, card.class_names)
    reference = top1(full, card, files, [card.num_patches])[card.num_patches]
    return {k: reference - value for k, value in top1(filtered, card, files, budgets).items()}


def labelled_files(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Images with their class: the subfolder's index among the model's class names, or among the sorted subfolders.

    Raises DataError where there are no images, or a subfolder that is no class of the model.
    """
    if not folder.is_dir():
        raise DataError(f"labelled images must be a folder with one subfolder per class, got {folder}.")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
    names = list(class_names) or [path.name for path in subfolders]
    unknown = [path.name for path in subfolders if path.name not in names]
    if unknown:
        raise DataError(f"{folder} has subfolders that are no class of this model, first {unknown[0]!r}.")
    extensions = Image.registered_extensions()
    files = [
        (path, names.index(subfolder.name))
        for subfolder in subfolders
        for path in sorted(subfolder.iterdir())
        if path.suffix.lower() in extensions
    ]
    if not files:
        raise DataError(
            f"no images in the subfolders of {folder}: labelled images must be files in one subfolder per class."
        )
    return files


def top1(
    session: Session, card: ModelCard, files: Sequence[tuple[Path, int]], budgets: Sequence[int]
) -> dict[int, float]:
    """Budget -> top-1 accuracy in 0..1; each image is decoded once."""
    preprocess = preprocess_from_card(card)
    correct = dict.fromkeys(budgets, 0)
    for start in range(0, len(files), _BATCH):
        part = files[start : start + _BATCH]
        images: Array = np.stack([preprocess(open_image(path)) for path, _ in part])
        labels = np.array([label for _, label in part])
        for k in budgets:
            correct[k] += int((session.run(images, k).logits.argmax(1) == labels).sum())
    return {k: count / len(files) for k, count in correct.items()}
