"""Labelled images in folders or tar archives: listed (``listing.py``), split into train and test, checked."""

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
from tokfilter.artifacts.split import Split, key_from_file, keys_from_iterable
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import DataError
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.image_index import TEST_PARTS, TRAIN_PARTS, Parts
from tokfilter.train.listing import listing_from_path
from tokfilter.train.webdataset import NUMBERS

__all__ = [
    "ImageList",
    "Progress",
    "Splits",
    "checked",
    "images_from_folder",
    "quiet",
    "split_from_images",
    "splits_from_folder",
    "with_keys",
]

_UNLABELLED: Final = "To train without class labels, choose the loss feature (--loss feature)."

Progress = Callable[[str, float], None]
"""(step, completed fraction): called during long steps."""


def quiet(step: str, fraction: float) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class ImageList:
    """Images with their classes, or without any.

    root: folder that the files' names are relative to
    files: names below root, in the listing's order
    labels: class of each file, an index into class_names; 0 for images without classes
    class_names: empty for images without classes
    parts: place of each image in an archive below root; None for images in folders
    keys: of each image's bytes (``artifacts/split.py``); None before they are read
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    parts: Parts | None = None
    keys: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def labelled(self) -> bool:
        """Whether the images have classes."""
        return bool(self.class_names)

    def subset(self, positions: Sequence[int]) -> "ImageList":
        """The images at some positions."""
        parts = None if self.parts is None else self.parts.subset(positions)
        keys = None if self.keys is None else tuple(self.keys[i] for i in positions)
        files, labels = tuple(self.files[i] for i in positions), tuple(self.labels[i] for i in positions)
        return replace(self, files=files, labels=labels, parts=parts, keys=keys)

    def image(self, position: int) -> Image.Image:
        """One image in RGB, upright by its EXIF orientation. Raises DataError with its name when it is damaged."""
        if self.parts is None:
            return open_image(self.root / self.files[position])
        part = self.parts[position]
        with open_regular(self.root / part.archive) as archive:
            archive.seek(part.offset)
            return image_from_bytes(archive.read(part.size), str(self.root / self.files[position]))

    def key(self, position: int) -> int:
        """Key of one image's bytes. Raises OSError."""
        part = None if self.parts is None else self.parts[position]
        with open_regular(self.root / (self.files[position] if part is None else part.archive)) as file:
            file.seek(0 if part is None else part.offset)
            return key_from_file(file, None if part is None else part.size)

    def bytes(self, position: int) -> int:
        """Size of one image file."""
        return (self.root / self.files[position]).stat().st_size if self.parts is None else self.parts[position].size

    def digest(self) -> str:
        """Hexadecimal SHA-256 over names, sizes in bytes and classes; identifies the data in records."""
        text = hashlib.sha256()
        for i, (name, label) in enumerate(zip(self.files, self.labels, strict=True)):
            class_name = self.class_names[label] if self.labelled else ""
            text.update(f"{name}\0{self.bytes(i)}\0{class_name}\n".encode())
        return text.hexdigest()


@dataclass(frozen=True)
class Splits:
    """Training images and test images."""

    train: ImageList
    test: ImageList


def images_from_folder(root: Path, class_names: Sequence[str] | None = None, need_classes: bool = True) -> ImageList:
    """List a folder or archives (``listing.py``); classes in the listing's order, or in that of ``class_names``.

    need_classes: False takes images without classes too: of one folder, of one class, of shards with captions
    Raises DataError: no such folder, no images, an empty class folder, a single class, a class not in ``class_names``.
    """
    listing = listing_from_path(root)
    single = listing.order == ("",) or (len(listing.order) < 2 and class_names is None)
    single = single or (listing.captioned and not set(listing.order) <= set(class_names or ()))
    if not need_classes and (single or class_names == ()):
        return ImageList(listing.root, listing.files, (0,) * len(listing.files), (), listing.parts)
    if class_names is not None:
        if unknown := sorted(set(listing.order) - set(class_names)):
            raise DataError(
                f"{root} has classes that the model was not trained for: {', '.join(unknown[:5])}. "
                f"It has {len(class_names)}, first {', '.join(class_names[:3])}. Remove these, or see --class-map."
                + (f" {NUMBERS}" if all(name.isdecimal() for name in unknown) else "")
            )
    elif listing.order == ("",):
        raise DataError(f"{root} has images without classes: expected one subfolder per class. {_UNLABELLED}")
    elif len(listing.order) < 2:
        raise DataError(f"{root} has one class only ({listing.order[0]}); training needs at least two. {_UNLABELLED}")
    names = listing.order if class_names is None else tuple(class_names)
    index = {name: label for label, name in enumerate(names)}
    labels = tuple(index[name] for name in listing.classes)
    return ImageList(listing.root, listing.files, labels, names, listing.parts)


def splits_from_folder(
    root: Path, class_names: Sequence[str] | None = None, holdout: float = 0.1, need_classes: bool = True
) -> Splits:
    """Training and test images: ``root/train`` and ``root/{test,val,validation}``, or one folder that is split here.

    Each can be a folder of classes, a folder of archives, or an archive (``root/train.tar``).

    holdout: fraction of each class that is held out of a folder without such parts; at least one image, always the same
    need_classes: False takes images without classes too
    Raises DataError.
    """
    train = _split(root, TRAIN_PARTS)
    if train is None:
        return _split_by_class(images_from_folder(root, class_names, need_classes), holdout)
    test = _split(root, TEST_PARTS)
    if test is None:
        raise DataError(
            f"{root} has {train.name}, but none of {', '.join(TEST_PARTS)}: add test images in one of these."
        )
    listed = images_from_folder(train, class_names, need_classes)
    return Splits(listed, images_from_folder(test, listed.class_names, need_classes))


def _split(root: Path, names: Sequence[str]) -> Path | None:
    """The first folder or archive that exists."""
    return next((p for name in names for p in (root / name, root / f"{name}.tar") if p.exists()), None)


def _split_by_class(images: ImageList, holdout: float) -> Splits:
    if not 0 < holdout < 1:
        raise DataError(f"the fraction of images to hold out must lie between 0 and 1, got {holdout}.")
    labels, held = np.array(images.labels), set[int]()
    for label in range(len(images.class_names) or 1):
        members = np.flatnonzero(labels == label)
        if 0 < len(members) < 2:
            what = f"class {images.class_names[label]}" if images.labelled else str(images.root)
            raise DataError(f"{what} has one image; at least two are needed, to train and to test.")
        shuffled = np.random.default_rng(label).permutation(members)
        held.update(shuffled[: max(1, round(holdout * len(members)))].tolist() if len(members) else ())
    everything = range(len(images))
    return Splits(images.subset([i for i in everything if i not in held]), images.subset(sorted(held)))


def checked(
    images: ImageList, progress: Progress, report: Callable[[str], None], dist_context: DistContext = SINGLE_PROCESS
) -> ImageList:
    """Decode every image once and leave out those that fail, each reported by name and reason.

    The keys too are computed, from files that the system has just read: 2 % more time than decoding alone.
    dist_context: its processes divide the images among themselves; all get the same result
    Raises DataError when a class has no image left.
    """
    damaged = torch.zeros(len(images), dtype=torch.uint8)
    keys = torch.zeros(len(images), dtype=torch.int64)
    mine = range(dist_context.rank, len(images), dist_context.size)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, (error, key) in zip(mine, pool.map(lambda i: _decoded(images, i), mine), strict=True):
            keys[i] = key
            if error is not None:
                damaged[i] = 1
                report(f"skipped {error}")
            if i % 100 == dist_context.rank:
                progress("checking images", i / len(images))
    images = replace(images, keys=tuple(dist_context.sum(keys).tolist()))
    whole = images.subset(torch.nonzero(dist_context.all_reduce(damaged) == 0).flatten().tolist())
    if not len(whole):
        raise DataError(f"no image in {images.root} can be decoded: replace its files.")
    if lost := sorted(set(images.labels) - set(whole.labels)):
        raise DataError(
            f"no image of class {images.class_names[lost[0]]} in {images.root} can be decoded: replace its files or "
            "remove the class."
        )
    return whole


def with_keys(images: ImageList, progress: Progress) -> ImageList:
    """The images with their keys; 0 for a file that cannot be read. Every file is read, none decoded."""
    keys = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, key in enumerate(pool.map(lambda i: _key(images, i), range(len(images)))):
            keys.append(key)
            if i % 100 == 0:
                progress("comparing with the training images", i / len(images))
    return replace(images, keys=tuple(keys))


def split_from_images(splits: Splits, earlier: Split | None = None) -> Split | None:
    """What a bundle records of its images; None without keys.

    earlier: of the start model, whose training images count as trained on too
    """
    if splits.train.keys is None or splits.test.keys is None:
        return None
    before = () if earlier is None else earlier.trained
    return Split(keys_from_iterable(splits.train.keys, before), keys_from_iterable(splits.test.keys))


def _decoded(images: ImageList, position: int) -> tuple[str | None, int]:
    """Error and key of one image."""
    try:
        images.image(position)
    except DataError as error:
        return str(error), 0
    return None, _key(images, position)


def _key(images: ImageList, position: int) -> int:
    try:
        return images.key(position)
    except OSError:
        return 0
