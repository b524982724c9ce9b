"""A user's own images for training: a DataLoader's batches, written once to a file and read from there.

So every epoch sees the same images, labels belong to images by position, and memory stays bounded.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.data import Progress
from tokfilter.train.dataset import Batch

__all__ = ["IGNORED", "TensorDataset", "TensorImages", "check_tensors", "dataset_from_loader"]

IGNORED: Final = -100
"""Label of a pixel that takes no part in the loss, as in ``torch.nn.functional.cross_entropy``."""

_EXPECTED = (
    "data must yield (images, labels): float images [B, 3, H, W], normalised as for the model, and class indices [B]"
)


@dataclass(frozen=True)
class TensorImages:
    """Images by position.

    files: a name for each, made from its position
    sha256: over pixels and labels
    """

    files: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """Hexadecimal SHA-256 over pixels and labels."""
        return self.sha256


@dataclass(frozen=True)
class TensorDataset:
    """Images as the model takes them (``TrainingData``).

    pixels: [m, 3, H, W], float32, in a file
    labels: [n], int64; [n, H', W'] for a model that gives masks
    rows: [n], place of each image in ``pixels``
    """

    images: TensorImages
    preprocessing: Preprocessing
    pixels: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, positions: Sequence[int]) -> "TensorDataset":
        """The images at some positions."""
        chosen = list(positions)
        digest = hashlib.sha256(f"{self.images.sha256} {chosen}".encode()).hexdigest()
        images = TensorImages(tuple(self.images.files[i] for i in chosen), digest)
        return replace(self, images=images, labels=self.labels[chosen], rows=self.rows[chosen])

    def changing(self, augmentation: Augmentation) -> "TensorDataset":
        """The images themselves. Raises DataError for changes of images before they are normalised."""
        check_tensors(augmentation)
        return self

    def batches(self, order: Sequence[Tensor], seeds: Sequence[int] | None = None) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``."""
        for positions in order:
            yield Batch(self.pixels[self.rows[positions]], self.labels[positions], positions)

    def normalised(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The images of a batch on the device; they are normalised already."""
        return images.to(device)


def check_tensors(augmentation: Augmentation) -> None:
    """Raise DataError for an augmentation that changes images before they are normalised: tensors are normalised."""
    if augmentation.changes_pixels:
        raise DataError(
            "data.crop_scale, data.auto_augment and data.jitter change image files, and a DataLoader gives normalised "
            "tensors, which are read once: give a folder or a .tar archive of images, or leave them out "
            "(data.zoom, data.flip and data.erasing work on tensors too)."
        )


def dataset_from_loader(
    data: Any,
    preprocessing: Preprocessing,
    classes: int,
    file: Path,
    progress: Progress,
    mask_size: tuple[int, ...] = (),
    labelled: bool = True,
) -> TensorDataset:
    """Read a torch DataLoader, or a Dataset of single images, once and to its end.

    preprocessing: the model's own; its input size is checked
    file: where the pixels are written, 4 bytes each
    mask_size: (H', W') of a model that gives masks: labels are then a class per pixel
    labelled: False takes batches of images alone, and leaves labels unread where there are some
    Raises DataError for anything else than images of the model's size with labels in 0..classes-1.
    """
    loader = data if isinstance(data, DataLoader) else _loader(data)
    total, labels, digest = _batch_count(loader), list[Tensor](), hashlib.sha256()
    with file.open("wb") as out:
        for done, (images, batch_labels) in enumerate(_batches(loader) if labelled else _unlabelled(loader)):
            _check_images(images, preprocessing.input_size)
            if labelled:
                _check_labels(images, batch_labels, classes, mask_size)
            content = images.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
            out.write(content)
            labels.append(batch_labels.detach().to("cpu", torch.int64))
            digest.update(content + labels[-1].numpy().tobytes())
            progress("reading images", (done + 1) / total if total else 0.0)
    if not labels:
        raise DataError(f"{_EXPECTED}; got no batch.")
    joined = torch.cat(labels)
    pixels = np.memmap(file, dtype=np.float32, mode="c", shape=(len(joined), *preprocessing.input_size))
    names = TensorImages(tuple(f"{i:09d}" for i in range(len(joined))), digest.hexdigest())
    return TensorDataset(names, preprocessing, torch.from_numpy(pixels), joined, torch.arange(len(joined)))


def _loader(data: Any) -> DataLoader[Any]:
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise DataError(
            f"data must be a folder of class folders, a torch Dataset or a DataLoader, got {type(data).__name__}."
        )
    return DataLoader(data, batch_size=64)


def _batch_count(loader: DataLoader[Any]) -> int | None:
    try:
        return len(loader)
    except TypeError:  # an iterable data set without a length
        return None


def _batches(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        for batch in loader:
            images, labels = batch
            if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
                raise DataError(f"{_EXPECTED}; got {type(images).__name__} and {type(labels).__name__}.")
            yield images, labels
    except (TypeError, ValueError) as error:  # what torch raises for items that it cannot stack, PIL images for one
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{_EXPECTED}; got items that make no such batch ({reason}). Give the Dataset a transform."
        ) from error


def _unlabelled(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, and zeros in place of labels."""
    try:
        for batch in loader:
            images = batch[0] if isinstance(batch, list | tuple) and batch else batch
            if not isinstance(images, Tensor) or images.ndim == 0:
                raise DataError(
                    f"data must yield images [B, 3, H, W], or (images, labels), got {type(images).__name__}."
                )
            yield images, torch.zeros(len(images), dtype=torch.int64)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"data must yield images [B, 3, H, W], got items that make no such batch ({reason}). Give the Dataset a "
            "transform."
        ) from error


def _check_images(images: Tensor, size: tuple[int, int, int]) -> None:
    if not images.is_floating_point():
        raise DataError(f"{_EXPECTED}; got images of {images.dtype}: scale to 0..1 and normalise them.")
    if images.ndim != 4 or tuple(images.shape[1:]) != size:
        raise DataError(
            f"the model takes images of {list(size)}, got {list(images.shape)}: resize them in the transform."
        )


def _check_labels(images: Tensor, labels: Tensor, classes: int, mask_size: tuple[int, ...]) -> None:
    if mask_size and (labels.shape != (len(images), *mask_size) or labels.is_floating_point()):
        raise DataError(
            f"a model with a mask head is trained on a class for each pixel of its masks, [B, {mask_size[0]}, "
            f"{mask_size[1]}] whole numbers, got labels {list(labels.shape)} of {labels.dtype}. Resize them with "
            "interpolation 'nearest'."
        )
    if not mask_size and (labels.shape != images.shape[:1] or labels.is_floating_point()):
        raise DataError(f"{_EXPECTED}; got labels {list(labels.shape)} of {labels.dtype} for {len(images)} images.")
    labels = labels[labels != IGNORED] if mask_size else labels
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"the model has {classes} classes, so labels are 0..{classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}. Create the model with the data's num_classes."
        )
