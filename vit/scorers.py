"""Scorers: modules that map patch tokens [B, N, C] to scores [B, N], higher is more important.

``TokenFilter`` is the trained one (method: arXiv 2305.14840; its shape is our choice). The others are baselines at the
same budget.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.vit.global_context import GlobalContext

__all__ = ["BASELINES", "CentreScorer", "NormScorer", "RandomScorer", "TokenFilter"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class Neighbours(nn.Module):
    """A convolution over each token's neighbours, zero outside of the image and at initialisation."""

    def __init__(self, width: int, grid: tuple[int, int], activation: nn.Module) -> None:
        super().__init__()
        self.grid = grid
        self.activation = activation
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [B, N, W]. Returns [B, N, W]."""
        rows = self.activation(hidden).transpose(1, 2).unflatten(2, self.grid)
        near: Tensor = self.convolution(rows)
        return near.flatten(2).transpose(1, 2)


class TokenFilter(nn.Module):
    """An MLP over each token joined with a global feature of its image.

    The first layer over the joined features [local | global] is written as the sum of two layers, so that the global
    half is computed once per image. With ``config.neighbours`` a convolution over the 3 × 3 tokens around each, of what
    that layer computes, is added to it (ours: a part of an object and a piece of the background can look alike).

    num_patches: N of the model; needed for a summary only
    grid: rows and columns of patch tokens; needed for neighbours only
    trained: False for new weights, True once weights are loaded from a state dict or the filter was trained
    """

    def __init__(
        self,
        channels: int,
        config: FilterConfig | None = None,
        num_patches: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or FilterConfig()
        self.trained = False
        activation = _ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(channels)
        self.local_feature = nn.Linear(channels, config.width)
        has_global = config.global_feature == "mean"
        self.global_feature = nn.Linear(channels, config.width, bias=False) if has_global else None
        layers: list[nn.Module] = []
        for _ in range(config.depth - 1):
            layers += [activation(), nn.Linear(config.width, config.width)]
        self.mlp = nn.Sequential(*layers, activation(), nn.Linear(config.width, 1))
        self.neighbours = None
        if config.neighbours:
            if grid is None:
                raise ValueError("a filter that reads neighbours needs the model's grid of patches")
            self.neighbours = Neighbours(config.width, grid, activation())
        self.summary: GlobalContext | None = None
        if config.summary:
            if num_patches is None:
                raise ValueError("a filter with a summary needs the number of the model's patches")
            self.summary = GlobalContext(num_patches, channels, config.summary)

    def forward(self, patches: Tensor) -> Tensor:
        """Score each token.

        patches: [B, N, C], as the first block would see them
        Returns [B, N].
        """
        normed = self.norm(patches)
        hidden = self.local_feature(normed)
        if self.global_feature is not None:
            hidden = hidden + self.global_feature(normed.mean(dim=1, keepdim=True))
        if self.neighbours is not None:
            hidden = hidden + self.neighbours(hidden)
        scores: Tensor = self.mlp(hidden).squeeze(-1)
        return scores

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.trained = self.trained or any(name.startswith(prefix) for name in state_dict)


class RandomScorer(nn.Module):
    """Baseline: every forward pass draws new scores from its own seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        return torch.rand(patches.shape[:2], generator=self.generator).to(patches)


class CentreScorer(nn.Module):
    """Baseline: minus the squared distance from the centre of the (height, width) grid of patches."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (torch.arange(n) - (n - 1) / 2 for n in grid)
        self.register_buffer("scores", -(rows[:, None] ** 2 + columns[None, :] ** 2).flatten(), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        scores: Tensor = self.get_buffer("scores")
        return scores.to(patches).expand(patches.shape[0], -1)


class NormScorer(nn.Module):
    """Baseline: the token's Euclidean norm."""

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        norms: Tensor = torch.linalg.vector_norm(patches, dim=-1)
        return norms


BASELINES = ("random", "centre", "norm")
