"""ToMe: the most similar tokens are merged, in every block; works with and without training.

Method: Bolya et al., "Token Merging: Your ViT But Faster" (arXiv 2210.09461), written from the paper: between attention
and MLP the patch tokens are assigned alternately to two sets. Each token of the first set is matched with the most
similar one of the second, by the cosine of their keys (mean over heads). The most similar pairs become their mean,
weighted by the number of patches that each token stands for, and attention is proportional to that number: its log is
added to the logits. Prefix tokens never merge.

The schedule "constant" is the paper's: every stage merges the same number of tokens, N - k at a budget of k, but half
of those that it gets at most. Ours: the default, "ratio", where every stage merges the same fraction, so that one
budget has one meaning in all reducers; and tokens stay in the order of their positions, so which tokens alternate
differs from the published code after the first merge. The merge is a product with a matrix of zeros and ones, which
every runtime has; its multiply-accumulates count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokfilter.vit.reducers.base import as_index
from tokfilter.vit.reducers.counts import RATIO
from tokfilter.vit.reducers.in_block import InBlockReducer, ReducedBlock

__all__ = ["Pick", "ToMe", "best_partners", "match_tokens", "merge_tokens"]

Pick = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Similarities [B, n, n] -> that of each token with its partner [B, n], and the partners [B, n] int64."""

_STAYS = 1.5
"""Score of the tokens of the second set, above every cosine: they are never merged into another."""


@dataclass
class _Sizes:
    """Patches that each patch token stands for in this pass, [B, n]; None before the first merge."""

    value: Tensor | None = None

    def __reduce__(self) -> tuple[type["_Sizes"], tuple[()]]:
        return _Sizes, ()


def best_partners(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar token of each; see ``Pick``."""
    best, partners = similarity.max(dim=-1)
    return best, partners


class ToMe(InBlockReducer):
    """Merges tokens. stages: the blocks where it merges, counted from 1; None: all.

    schedule: "ratio" or "constant"
    pick: chooses partners; replaced where those of another runtime are compared
    """

    name = "tome"
    needs = "a merged token has no position"

    def __init__(self, backbone: Any, stages: Sequence[int] | None = None, schedule: str = RATIO) -> None:
        super().__init__(backbone, range(1, len(backbone.blocks) + 1) if stages is None else stages)
        self.schedule = schedule
        self.sizes = _Sizes()
        self.pick: Pick = best_partners

    def settings(self) -> dict[str, Any]:
        """See Reducer. A bundle names the schedule only where it is not the default, so that older versions read it."""
        return {**super().settings(), **({} if self.schedule == RATIO else {"schedule": self.schedule})}

    def acts_in(self, depth: int) -> dict[int, int]:
        """Every block from the first stage on: attention is proportional in all that follow a merge. -1: no stage."""
        stages = {number: stage for stage, number in enumerate(self.stages)}
        return {number: stages.get(number, -1) for number in range(self.stages[0], depth + 1)}

    @property
    def adds_tokens(self) -> bool:
        """A merged token stands for several positions."""
        return True

    @property
    def merges(self) -> bool:
        """See Reducer."""
        return True

    @property
    def smallest(self) -> int:
        """Half of the patches: only one of the two sets can be merged."""
        return (self.num_patches + 1) // 2

    def forward(self, tokens: Tensor) -> Tensor:
        """See InBlockReducer."""
        self.sizes.value = None
        return super().forward(tokens)

    def run(self, block: ReducedBlock, tokens: Tensor) -> Tensor:
        """See InBlockReducer."""
        sizes = self.sizes.value
        if self.state.k is None or (block.stage < 0 and sizes is None):
            return super().run(block, tokens)
        bias = None if sizes is None else F.pad(sizes.log(), (self.prefix_tokens, 0))[:, None, None]
        attended, queries, keys = block.attend(tokens, bias)
        if block.stage >= 0:
            attended = self.reduce(block.stage, attended, queries, keys)
        return block.feed_forward(attended)

    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """See InBlockReducer."""
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        sizes = self.sizes.value if self.sizes.value is not None else torch.ones_like(patches[..., 0])
        scores, partners = match_tokens(keys[:, :, self.prefix_tokens :].mean(dim=1), self.prefix_tokens, self.pick)
        _, rows = self.chosen(tokens, scores, self.kept(stage))
        assert self.state.last is not None
        self.state.last.partners.append(torch.ops.aten._to_copy.default(partners, dtype=torch.int32))
        merged, self.sizes.value = merge_tokens(patches, sizes, partners, rows)
        return torch.cat([prefix, merged], dim=1)


def match_tokens(keys: Tensor, prefix_tokens: int, pick: Pick = best_partners) -> tuple[Tensor, Tensor]:
    """Bipartite matching of alternate tokens.

    keys: [B, n, c] of the patch tokens; prefix_tokens: how many tokens come before them, for the alternation
    Returns scores [B, n], minus the cosine with its partner for a token that can be merged; and partners [B, n].
    """
    direction = F.normalize(keys, dim=-1)
    second = (torch.arange(keys.shape[1], device=keys.device) + prefix_tokens) % 2 == 1
    similarity = torch.where(second, direction @ direction.transpose(1, 2), torch.full_like(keys[:1, :1, :1], -_STAYS))
    best, partners = pick(similarity)
    return torch.where(second, torch.full_like(best[:1, :1], _STAYS), -best), partners


def merge_tokens(patches: Tensor, sizes: Tensor, partners: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Merge each token that is not kept into its partner: means weighted by sizes.

    patches: [B, n, C]; sizes, partners: [B, n]; rows: [B, k] int32, the tokens that stay
    Returns patches [B, k, C] and sizes [B, k].
    """
    own = torch.arange(patches.shape[1], device=patches.device).expand_as(partners)
    stays = torch.zeros_like(partners).scatter(1, as_index(rows), torch.ones_like(rows, dtype=partners.dtype))
    targets = torch.where(stays == 1, own, partners)
    matrix = (as_index(rows)[:, :, None] == targets[:, None]).to(patches.dtype)  # [B, k, n]
    summed = matrix @ (patches * sizes[..., None])
    counts = (matrix @ sizes[..., None]).squeeze(-1)
    return summed / counts[..., None], counts
