"""Images as users have them: folders or tar archives with classes, listed by timm's readers, divided, and checked."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from tokfilter.artifacts.images import image_from_bytes, open_image
from tokfilter.errors import DataError
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.listing import Part, listing_from_path

__all__ = ["ImageList", "Progress", "Splits", "checked", "images_from_folder", "quiet", "splits_from_folder"]

Progress = Callable[[str, float], None]
"""(step, completed fraction): called as long work goes on."""


def quiet(step: str, fraction: float) -> None:
    """Progress that nobody watches."""


_TRAIN: Final = ("train", "training")
_TEST: Final = ("test", "val", "validation", "eval")


@dataclass(frozen=True)
class ImageList:
    """Images with their classes.

    root: folder that the files' names are relative to
    files: names below root, in timm's order
    labels: class of each file, an index into class_names
    parts: where each image lies in an archive below root; None when the files are files
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    parts: tuple[Part, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, positions: Sequence[int]) -> "ImageList":
        """The images at some positions."""
        parts = None if self.parts is None else tuple(self.parts[i] for i in positions)
        files, labels = tuple(self.files[i] for i in positions), tuple(self.labels[i] for i in positions)
        return replace(self, files=files, labels=labels, parts=parts)

    def image(self, position: int) -> Image.Image:
        """One image, upright and in RGB. Raises DataError that names it when it cannot be decoded."""
        if self.parts is None:
            return open_image(self.root / self.files[position])
        part = self.parts[position]
        with (self.root / part.archive).open("rb") as archive:
            archive.seek(part.offset)
            return image_from_bytes(archive.read(part.size), str(self.root / self.files[position]))

    def bytes(self, position: int) -> int:
        """Size of one image as it is stored."""
        return (self.root / self.files[position]).stat().st_size if self.parts is None else self.parts[position].size

    def digest(self) -> str:
        """Hexadecimal SHA-256 over names, sizes in bytes and classes: what a record names the data by."""
        text = hashlib.sha256()
        for i, (name, label) in enumerate(zip(self.files, self.labels, strict=True)):
            text.update(f"{name}\0{self.bytes(i)}\0{self.class_names[label]}\n".encode())
        return text.hexdigest()


@dataclass(frozen=True)
class Splits:
    """What is trained on, and what is only ever measured on."""

    train: ImageList
    test: ImageList


def images_from_folder(root: Path, class_names: Sequence[str] | None = None) -> ImageList:
    """List a folder or archives (``listing.py``); classes are ordered as timm orders them, or as ``class_names`` does.

    Raises DataError: nothing there, no images, an empty class folder, a single class, a class that is not expected.
    """
    listing = listing_from_path(root)
    if class_names is not None:
        if strangers := sorted(set(listing.order) - set(class_names)):
            raise DataError(
                f"{root} has classes that the model does not know: {', '.join(strangers[:5])}. "
                f"It knows {len(class_names)}, first {', '.join(class_names[:3])}."
            )
    elif len(listing.order) < 2:
        raise DataError(f"{root} holds one class only ({listing.order[0]}); there is nothing to tell apart.")
    names = listing.order if class_names is None else tuple(class_names)
    index = {name: label for label, name in enumerate(names)}
    labels = tuple(index[name] for name in listing.classes)
    return ImageList(listing.root, listing.files, labels, names, listing.parts)


def splits_from_folder(root: Path, class_names: Sequence[str] | None = None, holdout: float = 0.1) -> Splits:
    """Training and test images: ``root/train`` and ``root/{test,val,validation}``, or one folder that is divided.

    Each can be a folder of classes, a folder of archives, or an archive (``root/train.tar``).

    holdout: share of each class that is held out when nobody divided the folder; at least one image, always the same
    Raises DataError.
    """
    train = _split(root, _TRAIN)
    if train is None:
        return _divided(images_from_folder(root, class_names), holdout)
    test = _split(root, _TEST)
    if test is None:
        raise DataError(f"{root} has {train.name}, but none of {', '.join(_TEST)} to measure on.")
    listed = images_from_folder(train, class_names)
    return Splits(listed, images_from_folder(test, listed.class_names))


def _split(root: Path, names: Sequence[str]) -> Path | None:
    """The first of the folders or archives that is there."""
    return next((p for name in names for p in (root / name, root / f"{name}.tar") if p.exists()), None)


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


def checked(
    images: ImageList, progress: Progress, report: Callable[[str], None], dist_context: DistContext = SINGLE_PROCESS
) -> ImageList:
    """Decode every image once and leave out those that cannot be, each reported by name and reason.

    dist_context: each of its processes decodes and reports its share, and all leave out the same images
    Raises DataError when a class is left without images.
    """
    damaged, mine = (
        torch.zeros(len(images), dtype=torch.uint8),
        range(dist_context.rank, len(images), dist_context.size),
    )
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, complaint in zip(mine, pool.map(lambda i: _complaint(images, i), mine), strict=True):
            if complaint is not None:
                damaged[i] = 1
                report(f"skipped {complaint}")
            if i % 100 == dist_context.rank:
                progress("checking images", i / len(images))
    left = images.subset(torch.nonzero(dist_context.all_reduce(damaged) == 0).flatten().tolist())
    if lost := sorted(set(images.labels) - set(left.labels)):
        raise DataError(f"no image of class {images.class_names[lost[0]]} in {images.root} can be decoded.")
    return left


def _complaint(images: ImageList, position: int) -> str | None:
    try:
        images.image(position)
    except DataError as error:
        return str(error)
    return None
