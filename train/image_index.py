"""Where images are: names, classes, and for images in archives their places, 20 bytes each."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["TEST_PARTS", "TRAIN_PARTS", "Listing", "Part", "PartList", "Parts"]

TRAIN_PARTS: Final = ("train", "training")
TEST_PARTS: Final = ("test", "val", "validation", "eval")
"""Names of folders, or of archives without their ending, that divide a data set; the first that exists is taken."""


@dataclass(frozen=True)
class Part:
    """Place of an image in an archive.

    archive: name, relative to the data's root
    offset, size: in bytes
    """

    archive: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class Parts:
    """Places of many images.

    names: of the archives
    archive: [n], position in ``names``
    offset, size: [n], in bytes
    """

    names: tuple[str, ...]
    archive: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.archive)

    def __getitem__(self, position: int) -> Part:
        return Part(self.names[self.archive[position]], int(self.offset[position]), int(self.size[position]))

    def subset(self, positions: Sequence[int]) -> "Parts":
        """The places of the images at some positions."""
        rows = np.asarray(positions, np.int64)
        return Parts(self.names, self.archive[rows], self.offset[rows], self.size[rows])


class PartList:
    """Places that are added one by one."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._archive, self._offset, self._size = array("i"), array("q"), array("q")

    def add(self, archive: str, offset: int, size: int) -> None:
        """Add the place of the next image."""
        self._archive.append(self._names.setdefault(archive, len(self._names)))
        self._offset.append(offset)
        self._size.append(size)

    def parts(self) -> Parts:
        """All places."""
        offset, size = np.array(self._offset, np.int64), np.array(self._size, np.int64)
        return Parts(tuple(self._names), np.array(self._archive, np.int32), offset, size)


@dataclass(frozen=True)
class Listing:
    """Images in the order of their folder or archives.

    root: folder that names are relative to
    files: names of the images; in archives the archive's name comes first
    classes: class of each
    order: the classes, in the order of their indices
    parts: place of each image in an archive; None for images in folders
    captioned: whether the images have captions beside them, so that the names of archives may be no classes
    """

    root: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    order: tuple[str, ...]
    parts: Parts | None = None
    captioned: bool = False
