"""Baseline: patches that the class token attends to least leave after a third of the blocks (EViT-like, our own code).

Idea: Liang et al., "Not All Patches are What You Need" (EViT, arXiv 2202.07800): inside a block, between attention and
MLP, the patches with the most attention from the class token stay and the others become one token, their mean weighted
by that attention. EViT does so in blocks 4, 7 and 10 of 12, with a fixed share each time.

What differs here, so that every budget costs what the filter costs: one place, whose kept count follows from the
multiply-accumulates. The place is EViT's first, scaled to the depth: block 4 of 12 (that is after three whole blocks),
3 of 8, 2 of 4 or 6. Where so little is left there that fewer than half of the filter's tokens could stay, an earlier
block is taken, the latest at which half can; in the first block whatever can stay stays.
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from tokfilter.benchmarks.study.reducing import ReducedViT, ReducingBlock, Schedule

__all__ = ["ClassAttentionPruning", "class_attention", "pruned"]


def class_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """How much the class token attends to each token, mean over heads.

    queries, keys: [B, heads, T, c]; the class token comes first
    Returns [B, T].
    """
    logits = (queries[:, :, :1] * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    attention: Tensor = logits.softmax(dim=-1).mean(dim=1)[:, 0]
    return attention


def pruned(tokens: Tensor, attention: Tensor, keep: int, prefix_tokens: int) -> Tensor:
    """Keep the patches with the most attention in their order; the others become one token, weighted by attention.

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


class _PruningBlock(ReducingBlock):
    def reduced(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        attention = class_attention(queries, keys)[:, self.prefix_tokens :]
        return pruned(tokens, attention, self.step.num_patches - 1, self.prefix_tokens)


class ClassAttentionPruning(ReducedViT):
    """A ViT that prunes patches once by class attention; a schedule's counts include the fused token."""

    def reducing_block(self, block: Block) -> ReducingBlock:
        """The block that can prune."""
        return _PruningBlock(block, self.costs.prefix, self.num_patches)

    def families(self) -> list[list[Schedule]]:
        """One family per place, EViT's first place first."""
        counts = range(min(2, self.num_patches), self.num_patches + 1)  # a patch and the fused token are the least
        return [[self._pruning(place, n) for n in counts] for place in range(1 + self.costs.depth // 4, 0, -1)]

    def choosing(self, num_patches: int) -> int:
        """The class token's query with every key."""
        return (num_patches + self.costs.prefix) * self.costs.attention_width

    def _pruning(self, place: int, num_patches: int) -> Schedule:
        return (self.num_patches,) * (place - 1) + (num_patches,) * (self.costs.depth - place + 1)
