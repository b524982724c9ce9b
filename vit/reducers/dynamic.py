"""DynamicViT: a predictor before blocks 4, 7 and 10 scores the tokens that are left, and the best stay.

Method: Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification" (arXiv 2106.02034).
Each stage has a predictor over each token joined with a global feature, here a ``TokenFilter``; at inference the number
of tokens is fixed.

Ours is the training. The paper keeps all tokens, masks attention by Gumbel-Softmax samples and adds a loss on their
ratio. Here the best k of the scores with Gumbel noise stay, as at inference, so the ratio needs no loss; and the
logarithm of a gate of value 1, whose gradient is that of the sigmoid of the score, is added to the attention's logits
of the stage's block. So a score rises where more attention to its token lowers the loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokfilter.vit.reducers.base import BlockTokens
from tokfilter.vit.reducers.counts import stage_counts
from tokfilter.vit.reducers.in_block import InBlockReducer, ReducedBlock
from tokfilter.vit.scorers import TokenFilter

__all__ = ["DynamicViT"]


class DynamicViT(InBlockReducer):
    """Drops tokens by predictors, one for each stage."""

    name = "dynamic"
    needs = "their embeddings are not passed through its stages"

    def __init__(self, backbone: Any, stages: Sequence[int] | None = None) -> None:
        super().__init__(backbone, stages)
        self.predictors = nn.ModuleList(TokenFilter(backbone.embed_dim) for _ in self.stages)

    @property
    def trained(self) -> bool:
        """Whether every predictor was trained."""
        return all(predictor.trained for predictor in self.predictors)

    def run(self, block: ReducedBlock, tokens: Tensor) -> Tensor:
        """See InBlockReducer: tokens are dropped before the block."""
        if self.state.k is None:
            return super().run(block, tokens)
        scores = self.predictors[block.stage](tokens[:, self.prefix_tokens :])
        k = self.kept(block.stage)
        if not self.training:
            result: Tensor = block.block(self.chosen(tokens, scores, k)[0])
            return result
        noise = -torch.empty_like(scores).exponential_().log()  # Gumbel
        tokens, rows = self.chosen(tokens, (scores + noise).detach(), k)
        gate = scores.gather(1, rows.long()).sigmoid()
        bias = F.pad((1 + gate - gate.detach()).log(), (self.prefix_tokens, 0))[:, None, None]
        return block.feed_forward(block.attend(tokens, bias)[0])

    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Nothing happens between attention and MLP."""
        return tokens

    def blocks(self, k: int, depth: int) -> list[BlockTokens]:
        """See Reducer: a stage reduces before its block."""
        counts = [self.num_patches] * depth
        if k < self.num_patches:
            for number, kept in zip(self.stages, stage_counts(k, self.num_patches, len(self.stages)), strict=True):
                counts[number - 1 :] = [kept] * (depth - number + 1)
        return [BlockTokens(self.prefix_tokens + count, self.prefix_tokens + count) for count in counts]
