"""Scorers: modules that map patch tokens [B, N, C] to scores [B, N], higher is more important.

``TokenFilter`` is the trained one (method: arXiv 2305.14840; its shape is our choice). The others are the baselines
that it has to beat at the same budget.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokfilter.vit.global_context import GlobalContext

__all__ = ["BASELINES", "CentreScorer", "FilterConfig", "NormScorer", "RandomScorer", "TokenFilter"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_GLOBAL_FEATURES = ("mean", "none")


@dataclass(frozen=True)
class FilterConfig:
    """Shape of the token filter.

    width: hidden width of the MLP
    depth: hidden layers, at least 1
    activation: gelu, relu or silu
    global_feature: mean (over the image's patch tokens) or none
    summary: hidden width of what the class token is told of the whole image (``summary.py``); 0 leaves it out
    """

    width: int = 64
    depth: int = 2
    activation: str = "gelu"
    global_feature: str = "mean"
    summary: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"a filter wants width and depth of at least 1, got {self.width} and {self.depth}")
        if self.summary < 0:
            raise ValueError(f"a filter's summary is a width, or 0 for none, got {self.summary}")
        for name, allowed in (("activation", tuple(_ACTIVATIONS)), ("global_feature", _GLOBAL_FEATURES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"a filter's {name} is one of {', '.join(allowed)}, got {getattr(self, name)!r}")


class TokenFilter(nn.Module):
    """An MLP over each token joined with a global feature of its image.

    The first layer over the joined features [local | global] is written as the sum of two layers, so that the global
    half is computed once per image.

    num_patches: N of the model; wanted by a summary only
    """

    def __init__(self, channels: int, config: FilterConfig | None = None, num_patches: int | None = None) -> None:
        super().__init__()
        self.config = config = config or FilterConfig()
        activation = _ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(channels)
        self.local_feature = nn.Linear(channels, config.width)
        has_global = config.global_feature == "mean"
        self.global_feature = nn.Linear(channels, config.width, bias=False) if has_global else None
        layers: list[nn.Module] = []
        for _ in range(config.depth - 1):
            layers += [activation(), nn.Linear(config.width, config.width)]
        self.mlp = nn.Sequential(*layers, activation(), nn.Linear(config.width, 1))
        self.summary: GlobalContext | None = None
        if config.summary:
            if num_patches is None:
                raise ValueError("a filter with a summary wants the number of the model's patches")
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
        scores: Tensor = self.mlp(hidden).squeeze(-1)
        return scores


class RandomScorer(nn.Module):
    """Baseline: every forward pass draws new scores from its own seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        return torch.rand(patches.shape[:2], generator=self.generator).to(patches)


class CentreScorer(nn.Module):
    """Baseline: the nearer to the middle of the (height, width) grid of patches, the higher."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (torch.arange(n) - (n - 1) / 2 for n in grid)
        self.register_buffer("scores", -(rows[:, None] ** 2 + columns[None, :] ** 2).flatten(), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        scores: Tensor = self.get_buffer("scores")
        return scores.to(patches).expand(patches.shape[0], -1)


class NormScorer(nn.Module):
    """Baseline: the larger the token's Euclidean norm, the higher."""

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, C]. Returns [B, N]."""
        norms: Tensor = torch.linalg.vector_norm(patches, dim=-1)
        return norms


BASELINES = ("random", "centre", "norm")
