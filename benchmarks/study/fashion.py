"""Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017) as image folders: 60,000 + 10,000 grey images of 28 by 28, ten classes.

The files come from Debian's package ``dataset-fashion-mnist``, or are downloaded by torchvision.
"""

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import FashionMNIST  # type: ignore[import-untyped]

from tokfilter.errors import DataError
from tokfilter.train.data import Progress

__all__ = ["DEBIAN", "fashion_images", "write_fashion"]

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")


def write_fashion(
    folder: Path,
    source: Path = DEBIAN,
    progress: Progress = lambda stage, fraction: None,
    held_out: int = 0,
    seed: int = 0,
) -> None:
    """Write ``folder/train/<class>/*.png`` and ``folder/test/<class>/*.png``.

    source: folder with the four .gz files; if it does not exist, torchvision downloads them
    held_out: so many training images, chosen by ``seed``, are written as test in place of the test images; 0: none
    Raises DataError.
    """
    splits = fashion_images(source)
    if held_out:
        images, labels, classes = splits["train"]
        order = np.random.default_rng(seed).permutation(len(images))
        chosen = {"train": np.sort(order[:-held_out]), "test": np.sort(order[-held_out:])}
        splits = {name: (images[part], labels[part], classes) for name, part in chosen.items()}
    total, before = sum(len(images) for images, _, _ in splits.values()), 0
    for name, (images, labels, classes) in splits.items():
        folders = [folder / name / label for label in classes]
        for path in folders:
            path.mkdir(parents=True, exist_ok=True)
        for i, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            Image.fromarray(pixels).save(folders[label] / f"{i:05d}.png", compress_level=1)
            if i % 1000 == 0:
                progress("writing Fashion-MNIST", (before + i) / total)
        before += len(images)


def fashion_images(source: Path = DEBIAN) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]]:
    """Split (train, test) -> images [n, 28, 28], their classes [n] and the classes' names, which are names of folders.

    source: folder with the four .gz files; if it does not exist, torchvision downloads them
    Raises DataError.
    """
    with tempfile.TemporaryDirectory(prefix="tokfilter-fashion-") as scratch:
        _unpack(source, Path(scratch))
        try:
            splits = [FashionMNIST(scratch, train, download=not source.is_dir()) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Fashion-MNIST is not complete in {source} and cannot be downloaded ({error}): install Debian's "
                "package dataset-fashion-mnist, or give the folder with its four .gz files."
            ) from error
    names = tuple(label.replace("/", " or ") for label in splits[0].classes)
    return {
        split: (images.data.numpy(), images.targets.numpy(), names)
        for split, images in zip(("train", "test"), splits, strict=True)
    }


def _unpack(source: Path, scratch: Path) -> None:
    """Unpack the files into the folder that torchvision reads."""
    raw = scratch / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in source.glob("*-ubyte.gz"):
        with gzip.open(packed) as file, (raw / packed.stem).open("wb") as plain:
            shutil.copyfileobj(file, plain)
