"""What the filter has to beat: at the same number of tokens other scorers and fewer pixels, at the same number of
multiply-accumulates methods that drop or merge tokens inside the blocks."""

from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.benchmarks.study.evit_baseline import ClassAttentionPruning
from tokfilter.benchmarks.study.tome_baseline import TokenMerging
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import CentreScorer, NormScorer, RandomScorer

__all__ = ["REDUCING", "RIVALS", "LowResolution", "baseline_from_weights", "grid_from_tokens"]

RIVALS: Final = ("random", "centre", "norm", "resolution")
"""Baselines that reach every budget."""

REDUCING: Final = {"evit": ClassAttentionPruning, "tome": TokenMerging}
"""Baselines at equal multiply-accumulates; their ``lowest`` says which budgets they cannot reach."""


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
    """The smallest grid of at least ``tokens`` patches whose shape is nearest to the full grid's.

    Rounding up is in the baseline's favour: it never has fewer tokens than the filter.
    """
    candidates = [(r, c) for r in range(1, grid[0] + 1) for c in range(1, grid[1] + 1) if r * c >= tokens]
    alike = [shape for shape in candidates if abs(shape[0] / grid[0] - shape[1] / grid[1]) <= 1 / min(grid)]
    return min(alike or candidates, key=lambda shape: (shape[0] * shape[1], abs(shape[0] - shape[1])))


def baseline_from_weights(
    name: str,
    architecture: Architecture,
    weights: dict[str, Tensor],
    seed: int,
    filter_config: FilterConfig | None = None,
) -> Any:
    """A baseline on the same start weights as the filter's model.

    name: one of RIVALS or REDUCING
    filter_config: of the filter whose cost REDUCING baselines have to match
    """
    if name == "resolution":
        flexible = Architecture(architecture.name, {**architecture.kwargs, "dynamic_img_size": True})
        backbone: Any = create_backbone(flexible)
        backbone.load_state_dict(weights)
        return LowResolution(backbone, backbone.patch_embed.grid_size, backbone.patch_embed.patch_size)
    backbone = create_backbone(architecture)
    backbone.load_state_dict(weights)
    if name in REDUCING:
        return REDUCING[name](backbone, filter_config)
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    scorers = {"random": RandomScorer(seed), "centre": CentreScorer(grid), "norm": NormScorer()}
    return FilteredViT(backbone, scorers[name], keep=1.0)
