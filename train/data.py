"""Images as users have them: a folder with one subfolder per class, read and preprocessed by timm's code."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from tokfilter.errors import DataError
from tokfilter.images import open_image

__all__ = ["ImageList", "Progress", "Splits", "checked", "images_from_folder", "splits_from_folder"]

Progress = Callable[[str, float], None]
"""(what is being done, share that is done): how long work tells where it stands."""

_TRAIN: Final = ("train", "training")
_TEST: Final = ("test", "val", "validation", "eval")


@dataclass(frozen=True)
class ImageList:
    """Image files with their classes.

    root: folder that the files' names are relative to
    files: names below root, in timm's order
    labels: class of each file, an index into class_names
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, positions: Sequence[int]) -> "ImageList":
        """The images at some positions."""
        files = tuple(self.files[i] for i in positions)
        return replace(self, files=files, labels=tuple(self.labels[i] for i in positions))

    def digest(self) -> str:
        """Hexadecimal SHA-256 over names, sizes in bytes and classes: what a record names the data by."""
        text = hashlib.sha256()
        for name, label in zip(self.files, self.labels, strict=True):
            text.update(f"{name}\0{(self.root / name).stat().st_size}\0{self.class_names[label]}\n".encode())
        return text.hexdigest()


@dataclass(frozen=True)
class Splits:
    """What is trained on, and what is only ever measured on."""

    train: ImageList
    test: ImageList


def images_from_folder(root: Path, class_names: Sequence[str] | None = None) -> ImageList:
    """List a folder with one subfolder per class; classes are ordered as timm orders them, or as ``class_names`` does.

    Raises DataError: no such folder, no images, an empty class folder, a single class, a class that is not expected.
    """
    if not root.is_dir():
        raise DataError(f"images want a folder with one subfolder per class, but there is no folder {root}.")
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found, classes = find_images_and_targets(str(root), types=readable)
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{root} holds no images. It wants one subfolder per class with JPEG, PNG, WebP... files.")
    if empty := [name for name in folders if not any((root / name) in Path(file).parents for file, _ in found)]:
        raise DataError(f"{root} has class folders without images: {', '.join(empty[:5])}. Fill or remove them.")
    if class_names is not None:
        if strangers := sorted(set(classes) - set(class_names)):
            raise DataError(
                f"{root} has classes that the model does not know: {', '.join(strangers[:5])}. "
                f"It knows {len(class_names)}, first {', '.join(class_names[:3])}."
            )
    elif len(classes) < 2:
        raise DataError(f"{root} holds one class only ({next(iter(classes))}); there is nothing to tell apart.")
    names = tuple(class_names) if class_names is not None else tuple(sorted(classes, key=classes.__getitem__))
    by_index = {index: names.index(name) for name, index in classes.items()}
    files = tuple(Path(file).relative_to(root).as_posix() for file, _ in found)
    return ImageList(root, files, tuple(by_index[index] for _, index in found), names)


def splits_from_folder(root: Path, class_names: Sequence[str] | None = None, holdout: float = 0.1) -> Splits:
    """Training and test images: ``root/train`` and ``root/{test,val,validation}``, or one folder that is divided.

    holdout: share of each class that is held out when nobody divided the folder; at least one image, always the same
    Raises DataError.
    """
    train = next((root / name for name in _TRAIN if (root / name).is_dir()), None)
    if train is None:
        return _divided(images_from_folder(root, class_names), holdout)
    test = next((root / name for name in _TEST if (root / name).is_dir()), None)
    if test is None:
        raise DataError(f"{root} has a folder {train.name}, but none of {', '.join(_TEST)} to measure on.")
    listed = images_from_folder(train, class_names)
    return Splits(listed, images_from_folder(test, listed.class_names))


def _divided(images: ImageList, holdout: float) -> Splits:
    if not 0 < holdout < 1:
        raise DataError(f"the share of images to hold out wants to lie between 0 and 1, got {holdout}.")
    labels, held = np.array(images.labels), set[int]()
    for label in range(len(images.class_names)):
        members = np.flatnonzero(labels == label)
        if 0 < len(members) < 2:
            raise DataError(
                f"class {images.class_names[label]} has one image; two are the least, one to train and one to test."
            )
        shuffled = np.random.default_rng(label).permutation(members)
        held.update(shuffled[: max(1, round(holdout * len(members)))].tolist() if len(members) else ())
    everything = range(len(images))
    return Splits(images.subset([i for i in everything if i not in held]), images.subset(sorted(held)))


def checked(images: ImageList, progress: Progress, report: Callable[[str], None]) -> ImageList:
    """Decode every image once and leave out those that cannot be, each reported by name and reason.

    Raises DataError when a class is left without images.
    """
    good: list[int] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, complaint in enumerate(pool.map(_complaint, (images.root / name for name in images.files))):
            if complaint is None:
                good.append(i)
            else:
                report(f"skipped {complaint}")
            if i % 100 == 0:
                progress("checking images", i / len(images))
    left = images.subset(good)
    if lost := sorted(set(images.labels) - set(left.labels)):
        raise DataError(f"no image of class {images.class_names[lost[0]]} in {images.root} can be decoded.")
    return left


def _complaint(path: Path) -> str | None:
    try:
        open_image(path)
    except DataError as error:
        return str(error)
    return None
