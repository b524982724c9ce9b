"""Frequency-aware reduction: the patches with the least attention become means of the windows of the grid.

Method: Lee et al., "Frequency-Aware Token Reduction for Efficient Vision Transformer" (arXiv 2511.21477), in the form
that needs no attention map. The tokens with the most attention, mean over queries and heads, carry high frequencies and
stay. The rest is replaced by DC tokens, the mean of the dropped tokens in each of w x w windows, which later stages
update. A block adds w1 (A V - mean V) to its attention A V, and w2 weights the DC tokens; each head of a block has its
own, and both start at 0.

Ours, where the paper's text was not at hand or leaves it open:
* a stage reduces between attention and MLP: so DeiT-S at 0.7 costs 3.02 GMACs (the paper: 3.0), after the MLP 3.17
* the score is the product of the mean query with the key, mean over heads: the paper's score for fused attention
  as we understand it
* prefix tokens always stay; DC tokens are never dropped
* a DC token is the mean of all patches of its window that were dropped so far: a running mean by counts. Behind w = 2
  and 1, the four DC tokens are merged into one by their counts. A window without a dropped token has the mean of all
  dropped tokens, and later the value that it has.
* DC tokens get no position embedding: the mean of their tokens contains the mean of theirs
* w2 weights the columns of DC tokens, A diag(1 + w2 at DC tokens), and w1 what is left of that behind its mean over
  tokens. Both act in all blocks from the first stage on, and only where tokens are dropped.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.reducers.attention import attended, projected
from tokfilter.vit.reducers.base import as_index
from tokfilter.vit.reducers.in_block import InBlockReducer, ReducedBlock

__all__ = ["FrequencyAware", "mean_logits", "window_weights"]


@dataclass
class _Held:
    """State between the stages of a pass. Copies and pickles of a model start with an empty one.

    places: [B, n], of the patch tokens in the grid; None before the first stage
    counts: [B, W], patches of which each DC token is the mean
    """

    places: Tensor | None = None
    counts: Tensor | None = None

    def __reduce__(self) -> tuple[type["_Held"], tuple[()]]:
        return _Held, ()


class FrequencyAware(InBlockReducer):
    """Ranks patches by the attention that they get, and keeps the mean of the others in windows.

    windows: w for each stage, a divisor of the one before; None: 2, then 1
    w1, w2: [blocks from the first stage on, heads]
    """

    name = "frequency"
    needs = "the mean of a window has no position"

    def __init__(
        self, backbone: Any, stages: Sequence[int] | None = None, windows: Sequence[int] | None = None
    ) -> None:
        super().__init__(backbone, stages)
        grid: tuple[int, int] = backbone.patch_embed.grid_size
        first = min(2, *grid)
        self.windows = (first,) + (1,) * (len(self.stages) - 1) if windows is None else tuple(windows)
        if len(self.windows) != len(self.stages) or self.windows[0] > min(grid):
            raise UnsupportedModelError(
                f"frequency needs windows for each of its {len(self.stages)} stages, at most {min(grid)} x {min(grid)} "
                f"in this model's grid of {grid[0]} x {grid[1]} patches, got {', '.join(map(str, self.windows))}."
            )
        shape = len(backbone.blocks) - self.stages[0] + 1, backbone.blocks[0].attn.num_heads
        self.w1, self.w2 = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        for stage, side in enumerate(self.windows):
            self.register_buffer(f"windows_{stage}", _one_hot_windows(grid, side), persistent=False)
        for stage, (outer, inner) in enumerate(zip(self.windows[1:], self.windows[:-1], strict=True), 1):
            self.register_buffer(f"merge_{stage}", _one_hot_windows((inner, inner), outer), persistent=False)
        self.held = _Held()

    def settings(self) -> dict[str, Any]:
        """See Reducer."""
        return {**super().settings(), "windows": list(self.windows)}

    @property
    def adds_tokens(self) -> bool:
        """See Reducer: DC tokens."""
        return True

    @property
    def largest(self) -> int:
        """With every token there is no DC token."""
        return self.num_patches - 1

    def added(self, stage: int) -> int:
        """The DC tokens."""
        return self.windows[stage] ** 2

    def acts_in(self, depth: int) -> dict[int, int]:
        """Every block from the first stage on, with the stage that it is or that comes next."""
        return {number: bisect_left(self.stages, number) for number in range(self.stages[0], depth + 1)}

    def run(self, block: ReducedBlock, tokens: Tensor) -> Tensor:
        """One wrapped block. tokens: [B, P+n, C]. Returns [B, P+m, C]."""
        if self.state.k is None:
            return self.timm(block, tokens)
        inner, attention = block.block, block.block.attn
        if block.number == self.stages[0]:
            self.held.places = self.held.counts = None
        normed = inner.norm1(tokens)
        heads = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, attention.head_dim))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        sums = self.reweighted(block, queries, keys, values)
        tokens = tokens + inner.drop_path1(inner.ls1(projected(attention, sums, normed)))
        if block.number in self.stages:
            tokens = self.reduce(block.stage, tokens, queries, keys)
        return block.feed_forward(tokens)

    def reweighted(self, block: ReducedBlock, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention with w1 and w2. queries, keys, values: [B, heads, T, c]. Returns the same shape."""
        index = block.number - self.stages[0]
        if self.held.counts is not None:
            ordinary = values.shape[2] - self.held.counts.shape[1]
            means = values[:, :, ordinary:] * (1 + self.w2[index])[:, None, None]
            values = torch.cat([values[:, :, :ordinary], means], dim=2)
        sums = attended(block.block.attn, queries, keys, values)
        return sums + self.w1[index][:, None, None] * (sums - values.mean(dim=2, keepdim=True))

    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """See InBlockReducer. Tokens are the prefix, the patches, then the DC tokens."""
        prefix, held = self.prefix_tokens, self.held
        end = tokens.shape[1] - (0 if held.counts is None else held.counts.shape[1])
        scores = mean_logits(queries, keys)[:, prefix:end]
        selected, rows = self.chosen(tokens[:, :end], scores, self.kept(stage))
        dropped = torch.ones_like(scores).scatter(1, as_index(rows), torch.zeros_like(rows, dtype=scores.dtype))
        merge = self.get_buffer(f"merge_{stage}") if stage else None
        table = self.get_buffer(f"windows_{stage}")
        members = table.expand(tokens.shape[0], -1, -1) if held.places is None else table[held.places]
        weights, held.counts = window_weights(members, dropped, merge, held.counts)
        held.places = as_index(rows) if held.places is None else held.places.gather(1, as_index(rows))
        return torch.cat([selected, weights @ tokens[:, prefix:]], dim=1)


def mean_logits(queries: Tensor, keys: Tensor) -> Tensor:
    """Products of the mean query with all keys, mean over heads.

    queries, keys: [B, heads, T, c]
    Returns [B, T].
    """
    logits = queries.mean(dim=2, keepdim=True) @ keys.transpose(-2, -1)
    result: Tensor = logits.mean(dim=1)[:, 0]
    return result


def window_weights(
    members: Tensor, dropped: Tensor, merge: Tensor | None, counts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weights that make DC tokens of patch tokens and of the DC tokens before.

    members: [B, n, W], 1 where a patch is in a window
    dropped: [B, n], 1 for dropped patches, of which there is one or more unless there are DC tokens
    merge: [V, W], 1 where a DC token of the stage before is in a window; None at the first stage
    counts: [B, V], patches of which the DC tokens before are the mean
    Returns weights [B, W, n+V], whose rows sum to 1, and the new counts [B, W].
    """
    weights = members * dropped[..., None]
    if merge is None or counts is None:
        otherwise = (dropped / dropped.sum(dim=1, keepdim=True))[..., None]
    else:
        weights = torch.cat([weights, merge * counts[..., None]], dim=1)
        before = (merge / merge.sum(dim=0)).expand(dropped.shape[0], -1, -1)
        otherwise = torch.cat([torch.zeros_like(members), before], dim=1)
    totals = weights.sum(dim=1)
    shares = torch.where(totals[:, None] > 0, weights / totals[:, None].clamp(min=1), otherwise)
    return shares.transpose(1, 2), totals


def _one_hot_windows(grid: tuple[int, int], side: int) -> Tensor:
    """[rows * columns, side * side], 1 where a place of the grid is in a window."""
    rows, columns = (torch.arange(length) * side // length for length in grid)
    windows = (rows[:, None] * side + columns).flatten()
    return (windows[:, None] == torch.arange(side * side)).float()
