"""What stands in the place of a dropped token when kept tokens go back to their places.

A fill works on scores [B, k, M], not on features [B, k, C]: scoring is linear per token, so both give the same masks,
and M maps are scattered instead of C. Every rule consists of standard operators and takes any k.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.mask_config import FILLS
from tokfilter.vit.reducers.base import as_index

__all__ = ["Fill", "fill_from_name", "scatter_scores"]

Score = Callable[[Tensor], Tensor]
"""Features [B, n, D] -> scores [B, n, M]."""


class Fill(nn.Module):
    """Base of the rules."""

    def forward(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """Scores of every place of the grid.

        scores: [B, k, M], of the kept tokens
        positions: [B, k], their places among the N patches, each once
        embedded: [B, N, C], all patch tokens before the first block
        score: maps features to scores
        Returns [B, N, M]; at ``positions`` it has ``scores``.
        """
        return scatter_scores(self.background(scores, positions, embedded, score), scores, positions)

    def background(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """Scores [B, N, M] of dropped places; arguments as for ``forward``."""
        raise NotImplementedError


class EmbeddingFill(Fill):
    """The token before the blocks, through a norm and one linear layer: what its own pixels say, without context."""

    def __init__(self, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)

    def background(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """As ``Fill.background``."""
        return score(self.project(self.norm(embedded)))


class NearestFill(Fill):
    """The scores of the nearest kept token on the grid; of equally near ones the first."""

    def __init__(self, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid)
        places = torch.cartesian_prod(rows, columns)
        squared = (places[:, None] - places[None, :]).square().sum(-1)
        self.register_buffer("squared", squared, persistent=False)

    def forward(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """As ``Fill.forward``: a kept token is the nearest to its own place."""
        nearest = F.embedding(as_index(positions), self.get_buffer("squared")).argmin(dim=1)
        return scores.gather(1, nearest.unsqueeze(-1).expand(-1, -1, scores.shape[2]))


class MaskTokenFill(Fill):
    """One learned token for every dropped place, as in masked autoencoders (arXiv 2111.06377)."""

    def __init__(self, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.token, std=0.02)

    def background(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """As ``Fill.background``."""
        return score(self.token[None, None]).expand(embedded.shape[0], embedded.shape[1], -1)


class KeptMeanFill(Fill):
    """The mean over the image's kept tokens."""

    def __init__(self, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()

    def background(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """As ``Fill.background``."""
        return scores.mean(dim=1, keepdim=True).expand(-1, embedded.shape[1], -1)


class DroppedMeanFill(EmbeddingFill):
    """The mean over the image's dropped tokens before the blocks, through a norm and one linear layer."""

    def background(self, scores: Tensor, positions: Tensor, embedded: Tensor, score: Score) -> Tensor:
        """As ``Fill.background``."""
        places = as_index(positions).unsqueeze(-1)
        kept = torch.zeros_like(places, dtype=embedded.dtype)
        dropped = torch.ones_like(embedded[:, :, :1]).scatter(1, places, kept)
        mean = (embedded * dropped).sum(dim=1, keepdim=True) / dropped.sum(dim=1, keepdim=True).clamp_min(1)
        return super().background(scores, positions, mean, score).expand(-1, embedded.shape[1], -1)


_KINDS: Final[dict[str, Callable[[int, int, tuple[int, int]], Fill]]] = dict(
    zip(FILLS, (EmbeddingFill, NearestFill, MaskTokenFill, KeptMeanFill, DroppedMeanFill), strict=True)
)


def fill_from_name(name: str, channels: int, width: int, grid: tuple[int, int]) -> Fill:
    """The rule of that name, with new weights.

    channels: C of the tokens
    width: D of the head
    grid: (rows, columns) of patches
    """
    return _KINDS[name](channels, width, grid)


def scatter_scores(background: Tensor, scores: Tensor, positions: Tensor) -> Tensor:
    """Put the scores of kept tokens to their places. background: [B, N, M], scores: [B, k, M], positions: [B, k]."""
    return background.scatter(1, as_index(positions).unsqueeze(-1).expand(-1, -1, scores.shape[2]), scores)
