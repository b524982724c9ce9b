"""EViT: the patches with the least attention from the class token are dropped, or fused into one token.

Method: Liang et al., "Not All Patches are What You Need" (arXiv 2202.07800; Apache-2.0 code, not copied): between
attention and MLP of blocks 4, 7 and 10 the patches with the most attention from the class token, mean over heads, stay.
The others are summed with that attention as weights into one token, which later stages rank like a patch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokfilter.vit.reducers.base import as_index
from tokfilter.vit.reducers.in_block import InBlockReducer

__all__ = ["EViT", "class_attention", "fused_token"]


class EViT(InBlockReducer):
    """Ranks patches by class attention.

    fuse: fuse the dropped tokens of a stage into one; else they are dropped
    """

    name = "evit"
    needs_class_token = True
    needs = "a fused token has no position"

    def __init__(self, backbone: Any, stages: Sequence[int] | None = None, fuse: bool = True) -> None:
        super().__init__(backbone, stages)
        self.fuse = fuse

    def settings(self) -> dict[str, Any]:
        """See Reducer."""
        return {**super().settings(), "fuse": self.fuse}

    @property
    def adds_tokens(self) -> bool:
        """See Reducer."""
        return self.fuse

    @property
    def largest(self) -> int:
        """With every token there is nothing to fuse."""
        return self.num_patches - self.fuse

    def added(self, stage: int) -> int:
        """The fused token."""
        return int(self.fuse)

    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """See InBlockReducer."""
        attention = class_attention(queries, keys)[:, self.prefix_tokens :]
        selected, rows = self.chosen(tokens, attention, self.kept(stage))
        if not self.fuse:
            return selected
        return torch.cat([selected, fused_token(tokens[:, self.prefix_tokens :], attention, rows)], dim=1)


def class_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention of the class token to each token, mean over heads.

    queries, keys: [B, heads, T, c]; the class token comes first
    Returns [B, T].
    """
    logits = (queries[:, :, :1] * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    attention: Tensor = logits.softmax(dim=-1).mean(dim=1)[:, 0]
    return attention


def fused_token(patches: Tensor, attention: Tensor, kept: Tensor) -> Tensor:
    """The sum of the tokens that are not kept, weighted by their attention.

    patches: [B, n, C]; attention: [B, n]; kept: [B, k] int32, rows
    Returns [B, 1, C].
    """
    weights = attention.scatter(1, as_index(kept), torch.zeros_like(kept, dtype=attention.dtype))
    return weights[:, None] @ patches
