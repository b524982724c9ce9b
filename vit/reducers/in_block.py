"""Reducers that act inside blocks: the blocks of their stages are wrapped, timm's ``forward`` is not copied."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tokfilter.errors import UnsupportedModelError
from tokfilter.vit.backbone import check_filterable
from tokfilter.vit.reducers.base import BlockTokens, Reducer
from tokfilter.vit.reducers.counts import default_stages

__all__ = ["InBlockReducer", "ReducedBlock", "timm_name"]


@dataclass
class _Heads:
    """Queries and keys of one attention, [B, heads, P+n, c]. A plain object, because torch.export allows it to change.

    Copies and pickles of a model start with an empty one.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None

    def __reduce__(self) -> tuple[type["_Heads"], tuple[()]]:
        return _Heads, ()


class ReducedBlock(nn.Module):
    """A timm block whose forward pass a reducer runs.

    block: the timm block; ``timm_name`` gives its weights their names in timm again
    number: of the block, counted from 1
    stage: index of the reducer's stage
    run: (this block, tokens) -> tokens: a method of the reducer
    """

    block: Any  # timm's Block; its annotations give parts as "Tensor | Module"

    def __init__(self, block: Block, number: int, stage: int, run: Callable[["ReducedBlock", Tensor], Tensor]) -> None:
        super().__init__()
        self.block = block
        self.number = number
        self.stage = stage
        self.run = run
        self.heads = _Heads()
        attention: Any = block.attn
        attention.q_norm.register_forward_hook(self._store_queries)
        attention.k_norm.register_forward_hook(self._store_keys)

    @property
    def attn(self) -> Any:
        """The attention, by timm's name in a block."""
        return self.block.attn

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, P+n, C]. Returns [B, P+m, C]."""
        return self.run(self, tokens)

    def attend(self, tokens: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The block's attention with its residual sum.

        tokens: [B, P+n, C]
        bias: of the attention's logits, broadcast to [B, heads, P+n, P+n]
        Returns tokens [B, P+n, C], queries and keys [B, heads, P+n, c].
        """
        block = self.block
        attended = block.attn(block.norm1(tokens), attn_mask=bias)
        queries, keys = self.heads.queries, self.heads.keys
        self.heads.queries = self.heads.keys = None  # else the autograd graph stays until the next pass
        assert queries is not None and keys is not None
        return tokens + block.drop_path1(block.ls1(attended)), queries, keys

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """The block's MLP with its residual sum. tokens: [B, P+m, C]. Returns [B, P+m, C]."""
        block = self.block
        result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return result

    def _store_queries(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.heads.queries = output

    def _store_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.heads.keys = output


class InBlockReducer(Reducer):
    """Base class of reducers inside blocks. By default a stage acts between attention and MLP: override ``reduce``.

    A reducer that acts elsewhere in a block overrides ``run`` instead, which gets the block and the tokens.

    stages: the blocks where it acts, counted from 1; None: after each quarter of the depth but the last
    """

    needs_class_token: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    """Why it cannot act in a model with rotary positions."""

    def __init__(self, backbone: Any, stages: Sequence[int] | None = None) -> None:
        super().__init__(backbone.num_prefix_tokens, backbone.patch_embed.num_patches)
        depth = len(backbone.blocks)
        self.stages = default_stages(depth) if stages is None else tuple(stages)
        if self.stages[-1] > depth:
            raise UnsupportedModelError(
                f"{self.name} acts at blocks {', '.join(map(str, self.stages))}, and this model has {depth} blocks: "
                "give stages within them, counted from 1."
            )

    def attach(self, backbone: Any) -> None:
        """Wrap the blocks where it acts, in place."""
        for number, stage in self.acts_in(len(backbone.blocks)).items():
            backbone.blocks[number - 1] = ReducedBlock(backbone.blocks[number - 1], number, stage, self.run)

    def acts_in(self, depth: int) -> dict[int, int]:
        """The blocks where it acts, counted from 1, and the stage of each."""
        return {number: stage for stage, number in enumerate(self.stages)}

    def choices_in_blocks(self, depth: int) -> list[tuple[int, int]]:
        """See Reducer."""
        return [(number, stage) for stage, number in enumerate(self.stages)]

    @classmethod
    def check(cls, backbone: Any) -> None:
        """See Reducer."""
        check_filterable(backbone)
        kind = type(backbone).__name__
        if not isinstance(backbone, VisionTransformer):
            raise UnsupportedModelError(
                f"{cls.name} cannot act in {kind}: its blocks rotate queries and keys by the positions of all tokens, "
                f"and {cls.needs}. Take a model with an absolute position embedding, or reducer='filter'."
            )
        if cls.needs_class_token and not backbone.has_class_token:
            raise UnsupportedModelError(
                f"{cls.name} ranks tokens by the class token, and this {kind} has none: take a model with a class "
                "token, or a reducer that needs none, such as 'filter'."
            )
        for block in backbone.blocks:
            if type(block) is not Block or type(block.attn) is not Attention:
                raise UnsupportedModelError(
                    f"{cls.name} needs timm's Block with timm's Attention, got {type(block).__name__} with "
                    f"{type(getattr(block, 'attn', None)).__name__}."
                )

    def settings(self) -> dict[str, Any]:
        """See Reducer."""
        return {"stages": list(self.stages)}

    @property
    def stage_count(self) -> int:
        """See Reducer."""
        return len(self.stages)

    def forward(self, tokens: Tensor) -> Tensor:
        """Start a pass: nothing is reduced before the blocks. tokens: [B, P+N, C]. Returns them."""
        self.begin(tokens)
        return tokens if self.state.given is None else self.state.given[1]

    def run(self, block: ReducedBlock, tokens: Tensor) -> Tensor:
        """One wrapped block. tokens: [B, P+n, C]. Returns [B, P+m, C]."""
        if self.state.k is None:
            return self.timm(block, tokens)
        attended, queries, keys = block.attend(tokens)
        return block.feed_forward(self.reduce(block.stage, attended, queries, keys))

    @staticmethod
    def timm(block: ReducedBlock, tokens: Tensor) -> Tensor:
        """The block as timm runs it: every token stays. tokens: [B, P+n, C]. Returns the same shape."""
        result: Tensor = block.block(tokens)
        block.heads.queries = block.heads.keys = None
        return result

    @abstractmethod
    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """What a stage does between attention and MLP.

        tokens: [B, P+n, C]
        queries, keys: [B, heads, P+n, c], of the block's attention
        Returns [B, P+m, C].
        """

    def added(self, stage: int) -> int:
        """Tokens that a stage leaves beside those that it keeps."""
        return 0

    def blocks(self, k: int, depth: int) -> list[BlockTokens]:
        """See Reducer: a stage reduces between attention and MLP."""
        counts = [self.num_patches] * depth
        if k < self.num_patches:
            kept = self.counts(k)
            for stage, number in enumerate(self.stages):
                counts[number - 1 :] = [kept[stage] + self.added(stage)] * (depth - number + 1)
        rows = [self.prefix_tokens + count for count in counts]
        before = [self.prefix_tokens + self.num_patches, *rows[:-1]]
        return [BlockTokens(*pair) for pair in zip(before, rows, strict=True)]


def timm_name(name: str) -> str:
    """The name in timm of a weight of a model whose blocks may be wrapped: blocks.3.block.norm1 -> blocks.3.norm1."""
    parts = name.split(".")
    wrapped = len(parts) > 3 and parts[0] == "blocks" and parts[2] == "block"
    return ".".join([*parts[:2], *parts[3:]]) if wrapped else name
