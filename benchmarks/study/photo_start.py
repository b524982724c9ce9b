"""Start weights of objects-in-photographs: the trained ViT-S/14, trained again on scenes of 98 pixels.

Whole images alone did not train it: after 240 steps of 16 images the loss was that of guessing, and a linear head on
the frozen features of 450 images guessed too. In a scene of 98 pixels, 7 × 7 patches, the object is as large in
patches and fills more of the image, and an image costs a fifth.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.study.photo_scenes import SceneLook, write_photo_scenes
from tokfilter.benchmarks.study.photo_sources import Shape, Sources, sources_from_wheels
from tokfilter.train.data import Progress, images_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.finetune import FineTuning, train_backbone
from tokfilter.train.loop import RunDir, TrainingPlan
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.info import preprocessing_from_backbone

__all__ = ["LOOK", "for_settings", "trained_on_small_scenes"]

_SEED: Final = 1
"""Of the small scenes and of their training; the whole images have 0."""
_HELD_OUT: Final = 8

LOOK: Final = SceneLook(size=98, object=(28, 84), distractor=(14, 49), distractors=(0, 3), window=70)
"""Of the small scenes: 7 × 7 patches of the size that they have in the whole images."""


def for_settings(sources: Sources, chosen: bool) -> Sources:
    """Every eighth shape of each class, from which settings are chosen; or the others, for the small scenes."""

    def part(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple(shape for number, shape in enumerate(shapes) if (number % _HELD_OUT == 0) == chosen)

    return replace(sources, shapes={name: part(shapes) for name, shapes in sources.shapes.items()})


def trained_on_small_scenes(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    folder: Path,
    wheels: Path,
    plan: TrainingPlan,
    count: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """The weights after training, with a head for the 20 classes; the positions of patches are those given.

    folder: of the small scenes and of the checkpoint; what is there is not computed again
    wheels: folder of the wheels that photographs and digits are read from
    count: scenes
    Raises DataError.
    """
    data = folder / "scenes"
    if not (data / "complete").is_file():
        write_photo_scenes(data, _SEED, {"train": count}, partial(_sources, wheels=wheels), LOOK, progress)
        (data / "complete").touch()
    images = images_from_folder(data / "train")
    arguments = {**architecture.kwargs, "num_classes": len(images.class_names)}
    backbone: Any = create_backbone(replace(architecture, kwargs=arguments))
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        nn.init.trunc_normal_(backbone.head.weight, std=0.02)
    nn.init.zeros_(backbone.head.bias)
    backbone.load_state_dict(weights, strict=False)
    small: Any = create_backbone(replace(architecture, kwargs={**arguments, "img_size": LOOK.size}))
    dataset = ImageDataset(images, preprocessing_from_backbone(small, crop_pct=1.0), progress)
    run_dir = RunDir(folder, resume=True, progress=progress)
    windows = _Windows(backbone, small).to(run_dir.processes.device)
    train_backbone(windows, dataset, FineTuning(plan), _SEED, run_dir, "small scenes")
    return {**small.cpu().state_dict(), "pos_embed": backbone.pos_embed.detach()}


def _sources(split: str, wheels: Path) -> Sources:
    return for_settings(sources_from_wheels(split, wheels), chosen=False)


class _Windows(nn.Module):
    """A ViT for small images. Each step takes the positions of another window of the large image."""

    def __init__(self, backbone: Any, small: Any) -> None:
        super().__init__()
        weights = backbone.state_dict()
        del weights["pos_embed"]
        small.load_state_dict(weights, strict=False)
        nn.init.zeros_(small.pos_embed.requires_grad_(False))  # not used, and part of the checkpoint's identity
        self.small: Any = small
        self.positions: Tensor
        self.register_buffer("positions", backbone.pos_embed.detach().clone())
        self.grid: tuple[int, int] = backbone.patch_embed.grid_size
        self.num_patches: int = small.patch_embed.num_patches

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]; ``keep`` is every token."""
        rows, columns = self.small.patch_embed.grid_size
        top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(self.grid, (rows, columns), strict=True))
        prefix = self.positions.shape[1] - self.grid[0] * self.grid[1]
        patches = self.positions[:, prefix:].reshape(1, *self.grid, -1)
        window = patches[:, top : top + rows, left : left + columns].flatten(1, 2)
        positions = torch.cat([self.positions[:, :prefix], window], dim=1)
        logits: Tensor = functional_call(self.small, {"pos_embed": positions}, (images,))
        return logits
