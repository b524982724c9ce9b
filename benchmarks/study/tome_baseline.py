"""Baseline: every block merges its most alike tokens in pairs (ToMe-like, our own code).

Idea: Bolya et al., "Token Merging: Your ViT But Faster" (ToMe, arXiv 2210.09461): between attention and MLP of every
block, patches are dealt in turn to two sets; each of the first finds the most alike of the second by the cosine of
their keys (mean over heads); the r closest pairs become their mean, weighted by how many patches each stands for, and
attention counts a token as often as it has patches (log of the size added to the logits). Prefix tokens never merge.

So that every budget costs what the filter costs, the number of merges follows from the multiply-accumulates: the same
in every block, one more in the first blocks where it does not divide. A block can at most halve its patches, which
bounds how cheap this baseline can be: about 11 % of the tokens of 12 blocks, a third of those of 4.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.benchmarks.study.reducing import ReducedViT, ReducingBlock, Schedule

__all__ = ["TokenMerging", "merged"]


def merged(patches: Tensor, sizes: Tensor, keys: Tensor, merges: int) -> tuple[Tensor, Tensor]:
    """Merge the most alike pairs by bipartite soft matching.

    patches: [B, n, C]
    sizes: [B, n], how many patches of the image each stands for
    keys: [B, n, c], what likeness is measured on
    merges: at most n // 2
    Returns patches [B, n-merges, C] and sizes [B, n-merges].
    """
    direction = F.normalize(keys.detach(), dim=-1)
    likeness, partner = (direction[:, ::2] @ direction[:, 1::2].transpose(1, 2)).max(dim=-1)
    order = likeness.topk(likeness.shape[1], dim=1).indices
    going, staying = order[:, :merges], order[:, merges:].sort(dim=1).values
    weighted = torch.cat([patches * sizes[..., None], sizes[..., None]], dim=-1)  # sizes are summed as channels are
    first, second = weighted[:, ::2], weighted[:, 1::2]
    second = second.scatter_add(1, _wide(partner.gather(1, going), weighted), first.gather(1, _wide(going, weighted)))
    summed = torch.cat([first.gather(1, _wide(staying, weighted)), second], dim=1)
    return summed[..., :-1] / summed[..., -1:], summed[..., -1]


def _wide(positions: Tensor, like: Tensor) -> Tensor:
    return positions[..., None].expand(-1, -1, like.shape[-1])


@dataclass
class _Sizes:
    """Patches that each token stands for, [B, n]; None while every token is one. All blocks share it."""

    value: Tensor | None = None


class _MergingBlock(ReducingBlock):
    def __init__(self, block: Block, prefix_tokens: int, num_patches: int, sizes: _Sizes) -> None:
        super().__init__(block, prefix_tokens, num_patches)
        self.sizes = sizes

    def bias(self, tokens: Tensor) -> Tensor | None:
        sizes = self.sizes.value
        return None if sizes is None else F.pad(sizes.log(), (self.prefix_tokens, 0))[:, None, None]

    def reduced(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        sizes = self.sizes.value if self.sizes.value is not None else torch.ones_like(patches[..., 0])
        alike = keys[:, :, self.prefix_tokens :].mean(dim=1)
        patches, self.sizes.value = merged(patches, sizes, alike, patches.shape[1] - self.step.num_patches)
        return torch.cat([prefix, patches], dim=1)


class TokenMerging(ReducedViT):
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
        """How many patches each token of the last pass stood for, [B, n]; None when nothing was merged."""
        return self._sizes.value

    def reducing_block(self, block: Block) -> ReducingBlock:
        """The block that can merge."""
        return _MergingBlock(block, self.costs.prefix, self.num_patches, self._sizes)

    def families(self) -> list[list[Schedule]]:
        """One family, from no merges to half of the patches in every block."""
        most = self.costs.depth * (self.num_patches // 2)
        return [list(dict.fromkeys(self._merging(merges) for merges in range(most + 1)))]

    def choosing(self, num_patches: int) -> int:
        """The keys of one set with those of the other."""
        return (num_patches + 1) // 2 * (num_patches // 2) * self.costs.head_width

    def _merging(self, merges: int) -> Schedule:
        """Spread merges over the blocks; a block merges half of its patches at most."""
        each, more = divmod(merges, self.costs.depth)
        left, handed_on = self.num_patches, []
        for block in range(self.costs.depth):
            left -= min(each + (block < more), left // 2)
            handed_on.append(left)
        return tuple(handed_on)
