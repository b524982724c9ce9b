"""The mask head: M learned queries score tokens, and the M maps of scores are upsampled.

Bilinear interpolation is linear in each channel, and so is the product with a query, so both orders give the same
masks: Up(Q . F) = Q . Up(F). The first upsamples M maps, the second D channels. Scoring in token space is the idea of
TokenMask (arXiv 2605.18177), of which only the abstract was read: norm, width and fill here are ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.artifacts.mask_config import MaskHeadConfig
from tokfilter.vit.dense.fill import fill_from_name

__all__ = ["MaskHead", "masks_from_scores", "masks_from_upsampled_features", "upsampled"]


class MaskHead(nn.Module):
    """Patch tokens to masks.

    channels: C of the tokens
    grid: (rows, columns) of patches
    """

    def __init__(self, channels: int, grid: tuple[int, int], config: MaskHeadConfig) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, config.width)
        self.queries = nn.Parameter(torch.empty(config.masks, config.width))
        nn.init.normal_(self.queries, std=config.width**-0.5)
        self.fill = fill_from_name(config.fill, channels, config.width, grid)

    def forward(self, tokens: Tensor, positions: Tensor | None, embedded: Tensor) -> Tensor:
        """Masks as logits.

        tokens: [B, k, C], patch tokens after the last block, without prefix tokens
        positions: [B, k], their places among the N patches; None for every token in order
        embedded: [B, N, C], all patch tokens before the first block; not read where positions is None
        Returns [B, M, H', W'].
        """
        scores = self.score(self.features(tokens))
        if positions is not None:
            scores = self.fill(scores, positions, embedded, self.score)
        return masks_from_scores(scores, self.grid, self.config.size, self.config.align_corners)

    def features(self, tokens: Tensor) -> Tensor:
        """Features [B, k, D] of tokens [B, k, C]."""
        features: Tensor = self.project(self.norm(tokens))
        return features

    def score(self, features: Tensor) -> Tensor:
        """Features [B, n, D] against the queries: [B, n, M]."""
        return F.linear(features, self.queries)


def masks_from_scores(scores: Tensor, grid: tuple[int, int], size: tuple[int, int], align_corners: bool) -> Tensor:
    """Up(Q . F): scores [B, N, M] of every place of the grid to masks [B, M, H', W']."""
    return upsampled(_maps(scores, grid), size, align_corners)


def masks_from_upsampled_features(
    features: Tensor, queries: Tensor, grid: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Q . Up(F), the dense form with the same result, to compare with.

    features: [B, N, D] of every place of the grid
    queries: [M, D]
    Returns [B, M, H', W'].
    """
    maps = upsampled(_maps(features, grid), size, align_corners)
    return torch.einsum("md,bdhw->bmhw", queries, maps)


def upsampled(maps: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear interpolation of maps [B, M, h, w] to [B, M, H', W']."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def _maps(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, N, C] as maps [B, C, h, w]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)
