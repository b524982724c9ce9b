"""Multiply-accumulates of a Vision Transformer as a formula of the patch tokens in each block.

A block is attention, then an MLP; methods that drop or merge tokens inside a block do so between the two. The baselines
search thousands of schedules for one of equal cost, so they need a formula. It is not a second count:
tests/benchmarks/study/test_reducing.py compares it with ``vit/macs.py``, which counts the operations that torch runs,
at every schedule and budget that it tests.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["BlockCosts", "costs_from_backbone"]


@dataclass(frozen=True)
class BlockCosts:
    """Multiply-accumulates for one image.

    depth, prefix, num_patches: blocks, prefix tokens, patch tokens of the full model
    attention_width, head_width: channels of the queries, all heads together and of one
    attention_token, mlp_token: linear layers of attention and of MLP, per token
    around: patch embedding and head
    scoring: the token filter on every patch
    """

    depth: int
    prefix: int
    num_patches: int
    attention_width: int
    head_width: int
    attention_token: int
    mlp_token: int
    around: int
    scoring: int

    def attention(self, num_patches: int) -> int:
        """Attention of one block: linear layers, queries times keys, weights times values."""
        tokens = num_patches + self.prefix
        return tokens * self.attention_token + 2 * tokens**2 * self.attention_width

    def mlp(self, num_patches: int) -> int:
        """MLP of one block."""
        return (num_patches + self.prefix) * self.mlp_token

    def blocks(self, schedule: Sequence[int]) -> int:
        """All blocks, with ``schedule[i]`` patch tokens after the attention of block i."""
        before = [self.num_patches, *schedule[:-1]]
        return sum(self.attention(n) for n in before) + sum(self.mlp(n) for n in schedule)

    def filtered(self, k: int) -> int:
        """The filtered model at a budget of k patch tokens; with every token the filter does not run."""
        scoring = 0 if k == self.num_patches else self.scoring
        return self.around + scoring + self.depth * (self.attention(k) + self.mlp(k))


def costs_from_backbone(backbone: Any, config: FilterConfig | None = None) -> BlockCosts:
    """Costs of a timm VisionTransformer and of a filter with ``config``. Raises UnsupportedModelError."""
    model = FilteredViT(copy.deepcopy(backbone))
    model.drop.scorer = model.new_filter(config or FilterConfig())
    block = backbone.blocks[0]
    blocks_only = BlockCosts(
        depth=len(backbone.blocks),
        prefix=model.prefix_tokens,
        num_patches=model.num_patches,
        attention_width=block.attn.attn_dim,
        head_width=block.attn.head_dim,
        attention_token=_linear(block.attn),
        mlp_token=_linear(block.mlp),
        around=0,
        scoring=0,
    )
    around = macs(model, model.num_patches) - blocks_only.filtered(model.num_patches)
    scoring = macs(model, 1) - blocks_only.filtered(1) - around if model.num_patches > 1 else 0
    return replace(blocks_only, around=around, scoring=scoring)


def _linear(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
