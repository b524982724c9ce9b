"""Vision Transformers that drop or merge tokens inside their blocks, at the filter's multiply-accumulates at a budget.

timm's ``forward`` and attention are unchanged: each block is wrapped, and hooks read its queries and keys.
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
"""Patch tokens after the attention of each block, before its MLP."""


@dataclass
class _Step:
    """The number of patch tokens after attention, and its queries and keys.

    A plain object, because torch.export allows it to change.
    """

    num_patches: int
    queries: Tensor | None = None
    keys: Tensor | None = None


class ReducingBlock(nn.Module, ABC):
    """A timm block with fewer tokens in its MLP than in its attention."""

    block: Any  # timm's Block; its annotations give parts as "Tensor | Module"

    def __init__(self, block: Block, prefix_tokens: int, num_patches: int) -> None:
        super().__init__()
        self.block = block
        self.prefix_tokens = prefix_tokens
        self.step = _Step(num_patches)
        attention: Any = block.attn
        attention.q_norm.register_forward_hook(self._store_queries)
        attention.k_norm.register_forward_hook(self._store_keys)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, P+n, C]. Returns [B, P+step.num_patches, C]."""
        block = self.block
        attended = block.attn(block.norm1(tokens), attn_mask=self.bias(tokens))
        tokens = tokens + block.drop_path1(block.ls1(attended))
        queries, keys = self.step.queries, self.step.keys
        self.step.queries = self.step.keys = None  # else the autograd graph stays until the next pass
        assert queries is not None and keys is not None
        if tokens.shape[1] - self.prefix_tokens > self.step.num_patches:
            tokens = self.reduce(tokens, queries, keys)
        result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return result

    def bias(self, tokens: Tensor) -> Tensor | None:
        """Bias of the attention logits, broadcast to [B, heads, P+n, P+n], or None."""
        return None

    @abstractmethod
    def reduce(self, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Drop or merge tokens.

        tokens: [B, P+n, C]
        queries, keys: [B, heads, P+n, c]
        Returns [B, P+step.num_patches, C].
        """

    def _store_queries(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.step.queries = output

    def _store_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.step.keys = output


class ReducedViT(nn.Module, ABC):
    """A baseline at the filter's multiply-accumulates (``finetune.Budgeted``).

    ``keep`` is the filter's budget. The baseline uses the cheapest of its schedules that costs at least as much as the
    filtered model at that budget, filter included. (Just below every token the filtered model can cost more than the
    full model; then the baseline keeps every token.)
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
        """Classify at the cost of the filter at budget ``keep``; None is every token.

        In training, a budget below ``min_tokens`` is replaced by it, so that all methods draw the same budgets from
        the same random numbers.
        images: [B, 3, H, W], normalised
        Returns logits [B, classes]. Raises BudgetError, UnreachableBudgetError.
        """
        k = tokens_from_keep(1.0 if keep is None else keep, self.num_patches)
        schedule = self.schedule(max(k, self.min_tokens) if self.training else k)
        for block, num_patches in zip(self.backbone.blocks, schedule, strict=True):
            block.step.num_patches = num_patches
        logits: Tensor = self.backbone(images)
        return logits

    def schedule(self, keep: Keep) -> Schedule:
        """Patch tokens after each block's attention. Raises BudgetError, UnreachableBudgetError."""
        k = tokens_from_keep(keep, self.num_patches)
        if k < self.min_tokens:
            raise UnreachableBudgetError(
                f"{type(self).__name__} cannot cost as little as the filter at {k} of {self.num_patches} tokens: give "
                f"a budget of at least {self.min_tokens} tokens."
            )
        if k not in self._schedules:
            self._schedules[k] = self._equal_cost(k)
        return self._schedules[k]

    def macs(self, keep: Keep) -> int:
        """Multiply-accumulates for one image, equal to the count of ``vit/macs.py``. Raises like ``schedule``."""
        return self.cost(self.schedule(keep))

    @cached_property
    def min_tokens(self) -> int:
        """The smallest budget at which this baseline can cost as little as the filter."""
        least = min(cost for family in self._costed for cost, _ in family)
        return next((k for k in range(1, self.num_patches) if self.costs.filtered(k) >= least), self.num_patches)

    def cost(self, schedule: Schedule) -> int:
        """Multiply-accumulates of a schedule: embedding, blocks, selection of tokens, head."""
        before = (self.num_patches, *schedule[:-1])
        selection = sum(self.selection_macs(n) for n, m in zip(before, schedule, strict=True) if m < n)
        return self.costs.around + self.costs.blocks(schedule) + selection

    @abstractmethod
    def reducing_block(self, block: Block) -> ReducingBlock:
        """The replacement of a timm block."""

    @abstractmethod
    def families(self) -> list[list[Schedule]]:
        """Possible schedules, the preferred family first; each family has the schedule of every token."""

    @abstractmethod
    def selection_macs(self, num_patches: int) -> int:
        """Multiply-accumulates of the selection among ``num_patches`` tokens in one block."""

    @cached_property
    def _costed(self) -> list[list[tuple[int, Schedule]]]:
        return [[(self.cost(schedule), schedule) for schedule in family] for family in self.families()]

    def _equal_cost(self, k: int) -> Schedule:
        """From the first family that leaves at least half of the filter's tokens, else from the last family."""
        target, full = self.costs.filtered(k), self.costs.filtered(self.num_patches)
        for family in self._costed:
            candidates = [(cost, schedule) for cost, schedule in family if target <= cost <= full]
            schedule = min(candidates)[1] if candidates else (self.num_patches,) * self.costs.depth
            if min(family)[0] <= target and 2 * schedule[-1] >= k:
                break
        return schedule


def _check_reducible(backbone: nn.Module) -> None:
    """Raise UnsupportedModelError unless this is a plain ViT that classifies by its class token."""
    kind = type(backbone).__name__
    if not isinstance(backbone, VisionTransformer):
        raise UnsupportedModelError(f"baselines that drop tokens in blocks need timm's VisionTransformer, got {kind}.")
    if backbone.cls_token is None or backbone.global_pool != "token":
        raise UnsupportedModelError(
            f"baselines that drop tokens in blocks need a {kind} that classifies by its class token, "
            f"got global_pool={backbone.global_pool!r}."
        )
    for block in backbone.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            raise UnsupportedModelError(
                f"baselines that drop tokens in blocks need timm's Block and Attention, got {type(block).__name__}."
            )
