"""Baseline: prune the patches with the least class attention after a third of the blocks (like EViT; our own code).

Method: Liang et al., "Not All Patches are What You Need" (EViT, arXiv 2202.07800): inside a block, between attention
and MLP, the patches with the most attention from the class token stay and the others become one token, their mean
weighted by that attention. EViT prunes in blocks 4, 7 and 10 of 12, each time the same fraction.

Difference: this baseline prunes in one block, and keeps as many patches as give the multiply-accumulates of the filter
at the budget. The block is EViT's first, scaled to the depth: block 4 of 12 (after three whole blocks), 3 of 8, 2 of 4
or 6. If fewer than half of the filter's tokens could stay there, it is the latest earlier block in which half can stay;
in the first block there is no such limit.
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from tokfilter.benchmarks.study.reducing import ReducedViT, ReducingBlock, Schedule

__all__ = ["EViTBaseline", "class_attention", "prune_tokens"]


def class_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention of the class token to each token, mean over heads.

    queries, keys: [B, heads, T, c]; the class token comes first
    Returns [B, T].
    """
    logits = (queries[:, :, :1] * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    attention: Tensor = logits.softmax(dim=-1).mean(dim=1)[:, 0]
    return attention


def prune_tokens(tokens: Tensor, attention: Tensor, keep: int, prefix_tokens: int) -> Tensor:
    """Keep the patches with the most attention, in their order; fuse the others into one token, weighted by attention.

    tokens: [B, P+n, C]
    attention: [B, n]
    Returns [B, P+keep+1, C].
    """
    order = attention.topk(attention.shape[1], dim=1).indices
    kept, rest = order[:, :keep].sort(dim=1).values, order[:, keep:]
    patches = tokens[:, prefix_tokens:]
    weights = attention.gather(1, rest)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    fused = (weights[..., None] * _rows(patches, rest)).sum(dim=1, keepdim=True)
    return torch.cat([tokens[:, :prefix_tokens], _rows(patches, kept), fused], dim=1)


def _rows(patches: Tensor, positions: Tensor) -> Tensor:
    return patches.gather(1, positions[..., None].expand(-1, -1, patches.shape[-1]))


class _EViTBlock(ReducingBlock):
    def reduce(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        attention = class_attention(queries, keys)[:, self.prefix_tokens :]
        return prune_tokens(tokens, attention, self.step.num_patches - 1, self.prefix_tokens)


class EViTBaseline(ReducedViT):
    """A ViT that prunes patches by class attention in one block; the counts of a schedule include the fused token."""

    def reducing_block(self, block: Block) -> ReducingBlock:
        """A block that can prune."""
        return _EViTBlock(block, self.costs.prefix, self.num_patches)

    def families(self) -> list[list[Schedule]]:
        """One family per block that prunes; EViT's first block comes first."""
        counts = range(min(2, self.num_patches), self.num_patches + 1)  # at least one patch and the fused token
        return [[self._schedule(block, n) for n in counts] for block in range(1 + self.costs.depth // 4, 0, -1)]

    def selection_macs(self, num_patches: int) -> int:
        """The class token's query times every key."""
        return (num_patches + self.costs.prefix) * self.costs.attention_width

    def _schedule(self, block: int, num_patches: int) -> Schedule:
        return (self.num_patches,) * (block - 1) + (num_patches,) * (self.costs.depth - block + 1)
