"""The filter's baselines: other choices of tokens, and lower resolution, at the same number of tokens."""

from dataclasses import replace
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Architecture
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import CentreScorer, NormScorer, RandomScorer

__all__ = ["TOKEN_BASELINES", "LowResolution", "baseline_from_weights", "grid_from_tokens"]

TOKEN_BASELINES: Final = ("random", "centre", "norm", "resolution")
"""At the filter's number of tokens; every budget is possible."""


class LowResolution(nn.Module):
    """The full model on a smaller image with at least as many tokens; timm interpolates the position embedding."""

    def __init__(self, backbone: nn.Module, grid: tuple[int, int], patch: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.grid = grid
        self.patch = patch
        self.num_patches = grid[0] * grid[1]

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]. Raises BudgetError."""
        rows, columns = grid_from_tokens(tokens_from_keep(1.0 if keep is None else keep, self.num_patches), self.grid)
        if (rows, columns) != self.grid:
            size = (rows * self.patch[0], columns * self.patch[1])
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        logits: Tensor = self.backbone(images)
        return logits


def grid_from_tokens(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The smallest grid of at least ``tokens`` patches with about the aspect ratio of the full grid.

    Rounding up favours the baseline: it never has fewer tokens than the filter.
    """
    candidates = [(r, c) for r in range(1, grid[0] + 1) for c in range(1, grid[1] + 1) if r * c >= tokens]
    similar = [shape for shape in candidates if abs(shape[0] / grid[0] - shape[1] / grid[1]) <= 1 / min(grid)]
    return min(similar or candidates, key=lambda shape: (shape[0] * shape[1], abs(shape[0] - shape[1])))


def baseline_from_weights(name: str, architecture: Architecture, weights: dict[str, Tensor], seed: int) -> Any:
    """A baseline on the start weights of the filter's model.

    name: one of TOKEN_BASELINES
    seed: of the random scores
    """
    if name == "resolution":
        flexible = replace(architecture, kwargs={**architecture.kwargs, "dynamic_img_size": True})
        backbone: Any = create_backbone(flexible)
        backbone.load_state_dict(weights)
        return LowResolution(backbone, backbone.patch_embed.grid_size, backbone.patch_embed.patch_size)
    backbone = create_backbone(architecture)
    backbone.load_state_dict(weights)
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    scorers = {"random": RandomScorer(seed), "centre": CentreScorer(grid), "norm": NormScorer()}
    return FilteredViT(backbone, scorers[name], keep=1.0)
