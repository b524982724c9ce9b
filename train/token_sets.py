"""Sets of tokens that are masked together, and a token's share of what masking its sets costs.

A set of one token gives the paper's delta loss. Larger sets need fewer forward passes and see what single tokens hide:
a token whose neighbours say the same costs nothing alone. Sets of several tokens are ours.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.train.loop import generator_from

__all__ = ["GroupShape", "Grouping", "costs_of_tokens", "groups_of_tokens", "single_tokens"]

GroupShape = Literal["block", "random"]


@dataclass(frozen=True)
class Grouping:
    """Which tokens are masked together, and how often each token's turn comes.

    shape: block (squares of neighbours, shifted from round to round) or random (each image draws its own partitions)
    size: tokens per group; a square number for blocks
    rounds: each token is in that many groups, at the least
    """

    shape: GroupShape = "block"
    size: int = 4
    rounds: int = 2

    def __post_init__(self) -> None:
        if self.shape not in get_args(GroupShape):
            raise DataError(f"groups are one of {', '.join(get_args(GroupShape))}, got {self.shape!r}.")
        if self.size < 2 or self.rounds < 1:
            raise DataError(
                f"groups want at least 2 tokens and 1 round, got {self.size} and {self.rounds}. "
                "For single tokens take the method exact."
            )
        side = math.isqrt(self.size)
        if self.shape == "block" and (side * side != self.size or self.rounds > side):
            raise DataError(
                f"blocks want a square number of tokens (4, 9, 16) and at most as many rounds as the block's side, "
                f"got {self.size} tokens and {self.rounds} rounds."
            )


def single_tokens(images: int, patches: int) -> Tensor:
    """Every token alone. Returns [images, patches, 1]."""
    return torch.arange(patches)[None, :, None].expand(images, -1, -1)


def groups_of_tokens(grid: tuple[int, int], config: Grouping, positions: Tensor) -> Tensor:
    """Groups of the tokens of some images.

    grid: rows and columns of patch tokens
    positions: [B], places of the images in their data set; random groups are drawn from them and from nothing else
    Returns [B, groups, config.size]; every token of an image is in at least ``config.rounds`` of them. Raises DataError
    when a group would hold every token, or a block does not fit the grid.
    """
    patches = grid[0] * grid[1]
    side = math.isqrt(config.size)
    if config.size >= patches or (config.shape == "block" and side > min(grid)):
        raise DataError(
            f"groups of {config.size} tokens do not fit the model's grid of {grid[0]} x {grid[1]}; take smaller ones."
        )
    if config.shape == "block":
        blocks = torch.cat([_blocks(grid, side, round(i * side / config.rounds)) for i in range(config.rounds)])
        return blocks.expand(len(positions), -1, -1)
    return torch.stack([_random_groups(patches, config, int(position)) for position in positions])


def costs_of_tokens(costs: Tensor, sets: Tensor, patches: int) -> Tensor:
    """Each token's share of what masking its sets costs: the mean over its sets of the cost per token.

    costs: [B, S], of each set
    sets: [B, S, size]
    Returns [B, patches].
    """
    places = sets.flatten(1)
    shares = (costs / sets.shape[2]).repeat_interleave(sets.shape[2], dim=1)
    empty = torch.zeros(len(costs), patches, device=costs.device)
    return empty.scatter_add(1, places, shares) / empty.scatter_add(1, places, torch.ones_like(shares))


def _blocks(grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """Squares that cover the grid; those at the border are moved inwards and overlap. Returns [blocks, side * side]."""
    rows, columns = (
        torch.tensor(sorted({min(max(start, 0), length - side) for start in range(-shift, length, side)}))
        for length in grid
    )
    corners = (rows[:, None] * grid[1] + columns).flatten()
    inside = (torch.arange(side)[:, None] * grid[1] + torch.arange(side)).flatten()
    return corners[:, None] + inside


def _random_groups(patches: int, config: Grouping, position: int) -> Tensor:
    """Partitions into equal groups; the last is filled up from the beginning. Returns [groups, size]."""
    generator = generator_from("groups", position)
    groups = -(-patches // config.size)
    drawn = (torch.randperm(patches, generator=generator) for _ in range(config.rounds))
    return torch.cat([torch.cat([order, order])[: groups * config.size].view(groups, -1) for order in drawn])
