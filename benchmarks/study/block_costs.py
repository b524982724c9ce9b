"""Multiply-accumulates of a Vision Transformer by the patch tokens in each half of each block, without running it.

A block is attention, then an MLP; methods that drop or merge tokens inside it do so between the two halves.
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
    """What one image costs, in multiply-accumulates.

    depth, prefix, num_patches: blocks, prefix tokens, patch tokens of the full model
    attention_width, head_width: channels of the queries, all heads together and of one
    attention_token, mlp_token: linear layers of a half, per token
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
        """The attention half of one block: linear layers, queries with keys, weights with values."""
        tokens = num_patches + self.prefix
        return tokens * self.attention_token + 2 * tokens**2 * self.attention_width

    def mlp(self, num_patches: int) -> int:
        """The MLP half of one block."""
        return (num_patches + self.prefix) * self.mlp_token

    def blocks(self, handed_on: Sequence[int]) -> int:
        """All blocks, where block i's attention hands on ``handed_on[i]`` patch tokens to its MLP."""
        entering = [self.num_patches, *handed_on[:-1]]
        return sum(self.attention(n) for n in entering) + sum(self.mlp(n) for n in handed_on)

    def filtered(self, k: int) -> int:
        """The filtered model at a budget of k patch tokens; every token costs no filter work."""
        scoring = 0 if k == self.num_patches else self.scoring
        return self.around + scoring + self.depth * (self.attention(k) + self.mlp(k))


def costs_from_backbone(backbone: Any, config: FilterConfig | None = None) -> BlockCosts:
    """Costs of a timm VisionTransformer and of the filter of ``config``. Raises UnsupportedModelError."""
    model = FilteredViT(copy.deepcopy(backbone))
    model.drop.scorer = model.new_filter(config or FilterConfig())
    block = backbone.blocks[0]
    unpriced = BlockCosts(
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
    around = macs(model, model.num_patches) - unpriced.filtered(model.num_patches)
    scoring = macs(model, 1) - unpriced.filtered(1) - around if model.num_patches > 1 else 0
    return replace(unpriced, around=around, scoring=scoring)


def _linear(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
