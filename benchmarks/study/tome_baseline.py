"""Baseline: merge the most similar tokens in every block (like ToMe; our own code).

Method: Bolya et al., "Token Merging: Your ViT But Faster" (ToMe, arXiv 2210.09461): between attention and MLP of every
block, patches are assigned alternately to two sets. Each patch of the first set is matched with the most similar one of
the second, by the cosine of their keys (mean over heads). The r most similar pairs become their mean, weighted by the
number of patches each token represents, and attention is proportional to that number (its log is added to the logits).
Prefix tokens never merge.

Difference: the number of merges gives the multiply-accumulates of the filter at the budget. It is the same in every
block; a remainder goes to the first blocks, one each. A block can at most halve its patches, so there is a smallest
budget: about 11 % of the tokens with 12 blocks, a third of them with 4.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.benchmarks.study.reducing import ReducedViT, ReducingBlock, Schedule

__all__ = ["ToMeBaseline", "merge_tokens"]


def merge_tokens(patches: Tensor, sizes: Tensor, keys: Tensor, merges: int) -> tuple[Tensor, Tensor]:
    """Merge the most similar pairs by bipartite soft matching.

    patches: [B, n, C]
    sizes: [B, n], number of patches of the image that each represents
    keys: [B, n, c], whose cosine is the similarity
    merges: at most n // 2
    Returns patches [B, n-merges, C] and sizes [B, n-merges].
    """
    direction = F.normalize(keys.detach(), dim=-1)
    similarity, partner = (direction[:, ::2] @ direction[:, 1::2].transpose(1, 2)).max(dim=-1)
    order = similarity.topk(similarity.shape[1], dim=1).indices
    merging, staying = order[:, :merges], order[:, merges:].sort(dim=1).values
    weighted = torch.cat([patches * sizes[..., None], sizes[..., None]], dim=-1)  # sizes are one more channel to sum
    first, second = weighted[:, ::2], weighted[:, 1::2]
    targets = _wide(partner.gather(1, merging), weighted)
    second = second.scatter_add(1, targets, first.gather(1, _wide(merging, weighted)))
    summed = torch.cat([first.gather(1, _wide(staying, weighted)), second], dim=1)
    return summed[..., :-1] / summed[..., -1:], summed[..., -1]


def _wide(positions: Tensor, like: Tensor) -> Tensor:
    return positions[..., None].expand(-1, -1, like.shape[-1])


@dataclass
class _Sizes:
    """Number of patches that each token represents, [B, n]; None before the first merge. All blocks share it."""

    value: Tensor | None = None


class _ToMeBlock(ReducingBlock):
    def __init__(self, block: Block, prefix_tokens: int, num_patches: int, sizes: _Sizes) -> None:
        super().__init__(block, prefix_tokens, num_patches)
        self.sizes = sizes

    def bias(self, tokens: Tensor) -> Tensor | None:
        sizes = self.sizes.value
        return None if sizes is None else F.pad(sizes.log(), (self.prefix_tokens, 0))[:, None, None]

    def reduce(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        sizes = self.sizes.value if self.sizes.value is not None else torch.ones_like(patches[..., 0])
        mean_keys = keys[:, :, self.prefix_tokens :].mean(dim=1)
        patches, self.sizes.value = merge_tokens(patches, sizes, mean_keys, patches.shape[1] - self.step.num_patches)
        return torch.cat([prefix, patches], dim=1)


class ToMeBaseline(ReducedViT):
    """A ViT that merges tokens in every block."""

    def __init__(self, backbone: nn.Module, config: FilterConfig | None = None) -> None:
        self._sizes = _Sizes()
        super().__init__(backbone, config)

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """See ReducedViT."""
        self._sizes.value = None
        return super().forward(images, keep)

    @property
    def sizes(self) -> Tensor | None:
        """Number of patches that each token of the last pass represents, [B, n]; None if nothing was merged."""
        return self._sizes.value

    def reducing_block(self, block: Block) -> ReducingBlock:
        """A block that can merge."""
        return _ToMeBlock(block, self.costs.prefix, self.num_patches, self._sizes)

    def families(self) -> list[list[Schedule]]:
        """One family, from no merge to half of the patches in every block."""
        most = self.costs.depth * (self.num_patches // 2)
        return [list(dict.fromkeys(self._schedule(merges) for merges in range(most + 1)))]

    def selection_macs(self, num_patches: int) -> int:
        """The keys of one set times those of the other."""
        return (num_patches + 1) // 2 * (num_patches // 2) * self.costs.head_width

    def _schedule(self, merges: int) -> Schedule:
        """Distribute merges over the blocks; a block merges at most half of its patches."""
        per_block, remainder = divmod(merges, self.costs.depth)
        left, schedule = self.num_patches, []
        for block in range(self.costs.depth):
            left -= min(per_block + (block < remainder), left // 2)
            schedule.append(left)
        return tuple(schedule)
