"""Sets of tokens that are masked together, and each token's part of the loss that masking its sets adds.

A set of one token gives the paper's delta loss. Larger sets (ours) need fewer forward passes, and find tokens whose
neighbours are redundant with them: masked alone, such a token adds no loss.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.train.loop import generator_from

__all__ = [
    "GroupEstimate",
    "GroupShape",
    "Grouping",
    "costs_of_tokens",
    "groups_of_tokens",
    "log_costs_of_tokens",
    "single_tokens",
]

GroupShape = Literal["block", "random"]
GroupEstimate = Literal["mean", "log-ridge"]

_FLOOR: Final = 1e-6
"""What fp32 still tells apart. Labels get worse with a floor of 0.001, where many tokens of an easy image are alike."""


@dataclass(frozen=True)
class Grouping:
    """Which tokens are masked together.

    shape: block (squares of neighbours, shifted from round to round) or random (new partitions for each image)
    size: tokens per group; a square number for blocks; 0: half of the model's tokens, for random groups
    rounds: smallest number of groups that each token is in
    estimate: a token's label from its groups' losses: mean (of the added loss), or log-ridge (linear regression of the
        loss's logarithm on the masked tokens; ours, for random groups: docs/labels.md)
    """

    shape: GroupShape = "block"
    size: int = 4
    rounds: int = 2
    estimate: GroupEstimate = "mean"

    def __post_init__(self) -> None:
        if self.shape not in get_args(GroupShape):
            raise DataError(f"groups are one of {', '.join(get_args(GroupShape))}, got {self.shape!r}.")
        if self.estimate not in get_args(GroupEstimate):
            raise DataError(f"the estimate is one of {', '.join(get_args(GroupEstimate))}, got {self.estimate!r}.")
        half = self.size == 0 and self.shape == "random"
        if (self.size < 2 and not half) or self.rounds < 1:
            raise DataError(
                f"groups need at least 2 tokens and 1 round, got {self.size} and {self.rounds}. "
                "For single tokens use the method exact."
            )
        side = math.isqrt(self.size)
        if self.shape == "block" and (side * side != self.size or self.rounds > side):
            raise DataError(
                f"blocks need a square number of tokens (4, 9, 16) and at most as many rounds as the block's side, "
                f"got {self.size} tokens and {self.rounds} rounds."
            )


def single_tokens(images: int, num_patches: int) -> Tensor:
    """Every token alone. Returns [images, N, 1]."""
    return torch.arange(num_patches)[None, :, None].expand(images, -1, -1)


def groups_of_tokens(grid: tuple[int, int], config: Grouping, positions: Tensor) -> Tensor:
    """Groups of the tokens of some images.

    grid: rows and columns of patch tokens
    positions: [B], indices of the images in their data set, the seeds of random groups
    Returns [B, groups, size]; every token of an image is in at least ``config.rounds`` groups. Raises DataError
    when a group would hold every token, or a block does not fit the grid.
    """
    num_patches = grid[0] * grid[1]
    if config.size == 0:
        config = replace(config, size=max(1, num_patches // 2))
    side = math.isqrt(config.size)
    if config.size >= num_patches or (config.shape == "block" and side > min(grid)):
        raise DataError(
            f"groups of {config.size} tokens do not fit the model's grid of {grid[0]} x {grid[1]}; use smaller ones."
        )
    if config.shape == "block":
        blocks = torch.cat([_blocks(grid, side, round(i * side / config.rounds)) for i in range(config.rounds)])
        return blocks.expand(len(positions), -1, -1)
    return torch.stack([_random_groups(num_patches, config, int(position)) for position in positions])


def costs_of_tokens(costs: Tensor, sets: Tensor, num_patches: int) -> Tensor:
    """Cost of each token: the mean, over its sets, of the set's cost divided by the size of the set.

    costs: [B, S], added loss of each set
    sets: [B, S, size]
    Returns [B, N].
    """
    places = sets.flatten(1)
    parts = (costs / sets.shape[2]).repeat_interleave(sets.shape[2], dim=1)
    empty = torch.zeros(len(costs), num_patches, device=costs.device)
    return empty.scatter_add(1, places, parts) / empty.scatter_add(1, places, torch.ones_like(parts))


def log_costs_of_tokens(losses: Tensor, sets: Tensor, num_patches: int) -> Tensor:
    """By how much masking a token raises the logarithm of the loss: ridge regression over the sets of each image.

    Losses of large sets do not add up: without an object's most important parts the others change little more, and
    the logarithm makes such losses nearer to a sum. The penalty is as large as the mean variance of a token, without
    which more tokens than sets have no solution.

    losses: [B, S], with each set masked; those below 1e-6 count as that
    sets: [B, S, size]
    Returns [B, N].
    """
    logs = losses.float().clamp_min(_FLOOR).log()
    logs = logs - logs.mean(1, keepdim=True)
    held = torch.zeros(*sets.shape[:2], num_patches, device=losses.device).scatter_(2, sets, 1.0)
    held -= held.mean(1, keepdim=True)
    with torch.autocast(losses.device.type, enabled=False):  # half precision is for the forward passes
        penalty = held.square().sum(1).mean(1).clamp_min(1e-6)
        # H'(HH' + p)^-1 y = (H'H + p)^-1 H'y, for matrices of sets, not of tokens
        system = held @ held.mT + penalty[:, None, None] * torch.eye(held.shape[1], device=losses.device)
        found: Tensor = held.mT @ torch.linalg.solve(system, logs[..., None])
    return found[..., 0]


def _blocks(grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """Squares that cover the grid; at the border they are moved inwards and overlap. Returns [blocks, side * side]."""
    rows, columns = (
        torch.tensor(sorted({min(max(start, 0), length - side) for start in range(-shift, length, side)}))
        for length in grid
    )
    corners = (rows[:, None] * grid[1] + columns).flatten()
    inside = (torch.arange(side)[:, None] * grid[1] + torch.arange(side)).flatten()
    return corners[:, None] + inside


def _random_groups(num_patches: int, config: Grouping, position: int) -> Tensor:
    """Partitions into equal groups; the last is filled with the first tokens. Returns [groups, size]."""
    generator = generator_from("groups", position)
    groups = -(-num_patches // config.size)
    drawn = (torch.randperm(num_patches, generator=generator) for _ in range(config.rounds))
    return torch.cat([torch.cat([order, order])[: groups * config.size].view(groups, -1) for order in drawn])
