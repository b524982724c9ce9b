"""Vision Transformers that lose tokens inside their blocks, at the multiply-accumulates of the filter at a budget.

timm's ``forward`` and its attention stay as they are: each block is wrapped, and a hook sees its queries and keys.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.benchmarks.study.block_costs import costs_from_backbone
from tokfilter.errors import UnreachableBudgetError, UnsupportedModelError

__all__ = ["ReducedViT", "ReducingBlock", "Schedule"]

Schedule = tuple[int, ...]
"""Patch tokens that the attention of each block hands on to its MLP."""


@dataclass
class _Step:
    """What a block shall hand on, and what its attention saw. A plain object: torch.export lets it change."""

    num_patches: int
    queries: Tensor | None = None
    keys: Tensor | None = None


class ReducingBlock(nn.Module, ABC):
    """A timm block that hands on fewer tokens from its attention to its MLP."""

    block: Any  # timm's Block, whose parts its types call "Tensor | Module"

    def __init__(self, block: Block, prefix_tokens: int, num_patches: int) -> None:
        super().__init__()
        self.block = block
        self.prefix_tokens = prefix_tokens
        self.step = _Step(num_patches)
        attention: Any = block.attn
        attention.q_norm.register_forward_hook(self._saw_queries)
        attention.k_norm.register_forward_hook(self._saw_keys)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, P+n, C]. Returns [B, P+step.num_patches, C]."""
        block = self.block
        attended = block.attn(block.norm1(tokens), attn_mask=self.bias(tokens))
        tokens = tokens + block.drop_path1(block.ls1(attended))
        queries, keys = self.step.queries, self.step.keys
        self.step.queries = self.step.keys = None  # or the graph of this pass would live until the next
        assert queries is not None and keys is not None
        if tokens.shape[1] - self.prefix_tokens > self.step.num_patches:
            tokens = self.reduced(tokens, queries, keys)
        result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return result

    def bias(self, tokens: Tensor) -> Tensor | None:
        """What is added to the attention's logits."""
        return None

    @abstractmethod
    def reduced(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Fewer tokens. tokens: [B, P+n, C]; queries, keys: [B, heads, P+n, c]. Returns [B, P+step.num_patches, C]."""

    def _saw_queries(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.step.queries = output

    def _saw_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.step.keys = output


class ReducedViT(nn.Module, ABC):
    """A baseline of the filter at equal multiply-accumulates (``finetune.Budgeted``).

    ``keep`` is the filter's budget. The baseline takes the cheapest of its own schedules that costs at least what the
    filtered model costs there, filter included: never less, and no schedule of its kind lies between. (A budget just
    below every token can cost more than the full model, by the filter; then the baseline keeps every token.)
    """

    backbone: Any  # see FilteredViT

    def __init__(self, backbone: nn.Module, config: FilterConfig | None = None) -> None:
        super().__init__()
        _check_reducible(backbone)
        self.costs = costs_from_backbone(backbone, config)
        self.backbone = backbone
        self.num_patches = self.costs.num_patches
        self._schedules: dict[int, Schedule] = {}
        for i, block in enumerate(self.backbone.blocks):
            self.backbone.blocks[i] = self.reducing_block(block)

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """Classify at the cost of the filter's budget ``keep``; without one, with every token.

        While training, a budget that cannot be reached counts as the lowest one that can: so every method draws the
        same budgets from the same source.
        images: [B, 3, H, W], normalised
        Returns logits [B, classes]. Raises BudgetError, UnreachableBudgetError.
        """
        k = tokens_from_keep(1.0 if keep is None else keep, self.num_patches)
        handed_on = self.schedule(max(k, self.lowest) if self.training else k)
        for block, num_patches in zip(self.backbone.blocks, handed_on, strict=True):
            block.step.num_patches = num_patches
        logits: Tensor = self.backbone(images)
        return logits

    def schedule(self, keep: Keep) -> Schedule:
        """Patch tokens that each block's attention hands on. Raises BudgetError, UnreachableBudgetError."""
        k = tokens_from_keep(keep, self.num_patches)
        if k < self.lowest:
            raise UnreachableBudgetError(
                f"{type(self).__name__} cannot be as cheap as the filter at {k} of {self.num_patches} tokens: the "
                f"smallest budget that it reaches is {self.lowest}."
            )
        if k not in self._schedules:
            self._schedules[k] = self._equal_cost(k)
        return self._schedules[k]

    def macs(self, keep: Keep) -> int:
        """Multiply-accumulates for one image, counted as ``tokfilter.vit.macs`` counts. Raises as ``schedule`` does."""
        return self.cost(self.schedule(keep))

    @cached_property
    def lowest(self) -> int:
        """The smallest budget in tokens whose cost this baseline reaches."""
        least = min(cost for family in self._priced for cost, _ in family)
        return next((k for k in range(1, self.num_patches) if self.costs.filtered(k) >= least), self.num_patches)

    def cost(self, handed_on: Schedule) -> int:
        """Multiply-accumulates of a schedule: embedding, blocks, head, and what choosing costs."""
        entering = (self.num_patches, *handed_on[:-1])
        choosing = sum(self.choosing(n) for n, m in zip(entering, handed_on, strict=True) if m < n)
        return self.costs.around + self.costs.blocks(handed_on) + choosing

    @abstractmethod
    def reducing_block(self, block: Block) -> ReducingBlock:
        """The block that stands in the place of timm's."""

    @abstractmethod
    def families(self) -> list[list[Schedule]]:
        """Schedules to choose from, the preferred family first; each holds the one of every token."""

    @abstractmethod
    def choosing(self, num_patches: int) -> int:
        """Multiply-accumulates of deciding which of so many patch tokens go."""

    @cached_property
    def _priced(self) -> list[list[tuple[int, Schedule]]]:
        return [[(self.cost(handed_on), handed_on) for handed_on in family] for family in self.families()]

    def _equal_cost(self, k: int) -> Schedule:
        """Of the first family that still leaves half of the filter's tokens, else of the last."""
        wanted, most = self.costs.filtered(k), self.costs.filtered(self.num_patches)
        for family in self._priced:
            enough = [(cost, handed_on) for cost, handed_on in family if wanted <= cost <= most]
            handed_on = min(enough)[1] if enough else (self.num_patches,) * self.costs.depth
            if min(family)[0] <= wanted and 2 * handed_on[-1] >= k:
                break
        return handed_on


def _check_reducible(backbone: nn.Module) -> None:
    """Raise UnsupportedModelError unless this is a plain ViT that classifies by its class token."""
    kind = type(backbone).__name__
    if not isinstance(backbone, VisionTransformer):
        raise UnsupportedModelError(f"baselines that drop tokens in blocks want timm's VisionTransformer, got {kind}.")
    if backbone.cls_token is None or backbone.global_pool != "token":
        raise UnsupportedModelError(
            f"baselines that drop tokens in blocks want a {kind} that classifies by its class token, "
            f"got global_pool={backbone.global_pool!r}."
        )
    for block in backbone.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            raise UnsupportedModelError(
                f"baselines that drop tokens in blocks want timm's Block and Attention, got {type(block).__name__}."
            )
