"""Views: images as the model will see them, resized and cropped by timm's transform, still 8-bit.

They are held in memory where they fit, so that a small data set is decoded once and not once per epoch.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tokfilter.errors import DataError
from tokfilter.train.data import ImageList, Progress
from tokfilter.vit.bundle import Preprocessing

__all__ = ["Augmentation", "Batch", "ImageDataset", "augmented", "preprocessing_from_backbone"]

_HOLD_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Batch:
    """Some images of a data set.

    images: [B, 3, H, W], uint8
    labels: [B]
    positions: [B], places in the ImageList
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training dataset, our choice.

    zoom: the smallest share of the height and width that is shown
    flip: probability of a mirrored view
    """

    zoom: float = 1.0
    flip: float = 0.0


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The views of an ImageList, by position."""

    def __init__(
        self,
        images: ImageList,
        preprocessing: Preprocessing,
        progress: Progress = lambda what, share: None,
        hold_bytes: int = _HOLD_BYTES,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.labels = torch.tensor(images.labels)
        fields = asdict(preprocessing)
        mean, std = (torch.tensor(fields[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self._mean, self._std = mean * 255, std * 255
        # Without normalisation timm's transform ends in 8-bit pixels.
        self._transform: Any = create_transform(**fields, is_training=False, normalize=False)
        channels, height, width = preprocessing.input_size
        fits = len(images) * channels * height * width <= hold_bytes
        self._held: Tensor | None = self._decode_all(progress) if fits else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self._decoded(position), self.images.labels[position]

    def batches(self, plan: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches of the positions that ``plan`` lists. Raises DataError when a file has become unreadable."""
        if self._held is not None:
            for positions in plan:
                yield Batch(self._held[positions], self.labels[positions], positions)
            return
        orders = [positions.tolist() for positions in plan]
        loader = DataLoader(self, batch_sampler=orders, num_workers=min(8, _cores()))
        try:
            for positions, (images, labels) in zip(plan, loader, strict=True):
                yield Batch(images, labels, positions)
        except DataError as error:  # torch put the worker's traceback before the sentence
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error

    def in_order(self, batch: int) -> Iterator[Batch]:
        """Every image once, in order."""
        return self.batches(torch.split(torch.arange(len(self)), batch))

    def normalised(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The model's input. images: [B, 3, H, W], uint8. Returns [B, 3, H, W], float32."""
        pixels = images.to(device, torch.float32)
        normal: Tensor = (pixels - self._mean.to(device)) / self._std.to(device)
        return normal

    def _decoded(self, position: int) -> Tensor:
        view: Tensor = self._transform(self.images.image(position))
        return view

    def _decode_all(self, progress: Progress) -> Tensor:
        held = torch.empty(len(self), *self.preprocessing.input_size, dtype=torch.uint8)
        with ThreadPoolExecutor(_cores()) as pool:
            for i, view in enumerate(pool.map(self._decoded, range(len(self)))):
                held[i] = view
                if i % 100 == 0:
                    progress("reading images", i / len(self))
        return held


def _cores() -> int:
    """Those that this process may use: a container's or taskset's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def preprocessing_from_backbone(backbone: nn.Module, **overrides: Any) -> Preprocessing:
    """timm's preprocessing of a model; the input size is the one that the model was built for.

    overrides: mean, std, interpolation, crop_pct or crop_mode; None leaves timm's
    """
    image_size: tuple[int, int] = backbone.patch_embed.img_size  # type: ignore[union-attr, assignment]
    fields: dict[str, Any] = resolve_data_config(  # type: ignore[no-untyped-call]
        {"input_size": (3, *image_size), **overrides}, model=backbone
    )
    return Preprocessing(**{name: fields[name] for name in Preprocessing.__dataclass_fields__})


def augmented(images: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Zoom into, shift and mirror each image at random. images: [B, 3, H, W], float32; returns the same shape."""
    if config == Augmentation():
        return images
    batch = images.shape[0]
    drawn = torch.rand(4, batch, generator=generator)
    zoom = config.zoom + (1 - config.zoom) * drawn[0]
    mirror = torch.where(drawn[1] < config.flip, -1.0, 1.0)
    shift = (1 - zoom) * (2 * drawn[2:] - 1)
    zeros = torch.zeros(batch)
    rows = torch.stack([zoom * mirror, zeros, shift[0], zeros, zoom, shift[1]], dim=1).view(batch, 2, 3)
    grid = nn.functional.affine_grid(rows.to(images.device), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
