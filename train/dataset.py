"""Image data sets for training: resized and cropped by timm's transform, 8-bit, normalised on the device.

They are held in memory where they fit, so that a small data set is decoded once and not once per epoch.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.data import ImageList, Progress, quiet
from tokfilter.train.distributed import local_processes
from tokfilter.train.pixel_changes import PixelChange, image_seed
from tokfilter.vit.transform import transform_from_preprocessing

__all__ = ["Batch", "ImageDataset", "ImageSource", "TrainingData"]

_HOLD_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Batch:
    """Some images of a data set.

    images: [B, 3, H, W], uint8 from an ImageDataset
    labels: [B]
    positions: [B], indices into the data set
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


class ImageSource(Protocol):
    """The images of a data set by name, as label stores and checkpoints record them."""

    @property
    def files(self) -> tuple[str, ...]:
        """A name for each image, in order."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """Hexadecimal SHA-256 that identifies the images and their classes."""


class TrainingData(Protocol):
    """A data set as the training stages use it: ``ImageDataset``, or ``TensorDataset`` for a user's own loader."""

    @property
    def images(self) -> ImageSource:
        """Names and digest of the images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Resize, crop and normalisation of the images."""

    def __len__(self) -> int: ...

    def subset(self, positions: Sequence[int]) -> "TrainingData":
        """The images at some positions."""

    def changing(self, augmentation: Augmentation) -> "TrainingData":
        """The images as training sees them, changed before they are normalised. Raises DataError where it cannot be."""

    def batches(self, order: Sequence[Tensor], seeds: Sequence[int] | None = None) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``. seeds: of each batch, for ``changing``'s changes."""

    def normalised(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The model's input [B, 3, H, W], float32, from the images of a batch."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The images of an ImageList as uint8 tensors [3, H, W], with their classes.

    An item is a position, or (position, seed) for an image that is changed at random.
    """

    def __init__(
        self,
        images: ImageList,
        preprocessing: Preprocessing,
        progress: Progress = quiet,
        hold_bytes: int = _HOLD_BYTES,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.labels = torch.tensor(images.labels)
        fields = asdict(preprocessing)
        mean, std = (torch.tensor(fields[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self._mean, self._std = mean * 255, std * 255
        self._transform: Any = transform_from_preprocessing(preprocessing, normalize=False)
        channels, height, width = preprocessing.input_size
        fits = len(images) * channels * height * width <= hold_bytes
        self._held: Tensor | None = self._decode_all(progress) if fits else None
        self._change: PixelChange | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int]:
        position, seed = item if isinstance(item, tuple) else (item, None)
        pixels = self._decoded(position) if seed is None else self._changed(position, seed)
        return pixels, self.images.labels[position]

    def subset(self, positions: Sequence[int]) -> "ImageDataset":
        """The images at some positions; what is held in memory is not decoded again."""
        part = copy.copy(self)
        part.images = self.images.subset(positions)
        part.labels = torch.tensor(part.images.labels)
        part._held = None if self._held is None else self._held[list(positions)]
        return part

    def changing(self, augmentation: Augmentation) -> "ImageDataset":
        """The images, changed in ``batches`` from a seed for each; a crop reads their files again."""
        if not augmentation.changes_pixels:
            return self
        changed = copy.copy(self)
        changed._change = PixelChange(augmentation, self.preprocessing)
        return changed

    def batches(self, order: Sequence[Tensor], seeds: Sequence[int] | None = None) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``. Raises DataError when a file has become unreadable.

        seeds: of each batch; an image's changes depend on its batch's seed and its position
        """
        lists: list[list[Any]] = [positions.tolist() for positions in order]
        if self._change is not None:
            if seeds is None:
                raise ValueError("images that change at random need the seeds of their batches")
            lists = [[(i, image_seed(seed, i)) for i in some] for some, seed in zip(lists, seeds, strict=True)]
        elif self._held is not None:
            for positions in order:
                yield Batch(self._held[positions], self.labels[positions], positions)
            return
        loader = DataLoader(self, batch_sampler=lists, num_workers=min(8, _cores()))
        try:
            for positions, (images, labels) in zip(order, loader, strict=True):
                yield Batch(images, labels, positions)
        except DataError as error:  # torch puts the worker's traceback before the message
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error

    def in_order(self, batch: int) -> Iterator[Batch]:
        """Every image once, in order."""
        return self.batches(torch.split(torch.arange(len(self)), batch))

    def normalised(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The model's input. images: [B, 3, H, W], uint8. Returns [B, 3, H, W], float32."""
        pixels = images.to(device).to(torch.float32)  # in this order, bytes are copied to a GPU
        normal: Tensor = (pixels - self._mean.to(device)) / self._std.to(device)
        return normal

    def _decoded(self, position: int) -> Tensor:
        pixels: Tensor = self._transform(self.images.image(position))
        return pixels

    def _changed(self, position: int, seed: int) -> Tensor:
        assert self._change is not None
        if self._change.crops:
            return self._change(self.images.image(position), seed)
        pixels = self._decoded(position) if self._held is None else self._held[position]
        return self._change(Image.fromarray(pixels.permute(1, 2, 0).numpy()), seed)

    def _decode_all(self, progress: Progress) -> Tensor:
        held = torch.empty(len(self), *self.preprocessing.input_size, dtype=torch.uint8)
        with ThreadPoolExecutor(_cores()) as pool:
            for i, pixels in enumerate(pool.map(self._decoded, range(len(self)))):
                held[i] = pixels
                if i % 100 == 0:
                    progress("reading images", i / len(self))
        return held


def _cores() -> int:
    """CPU cores for this process: those that it may use, divided among the processes that torchrun started here.

    A container or taskset can allow fewer than the machine has.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_processes())
