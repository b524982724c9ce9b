"""IdleViT: in each idle block some tokens go through attention and MLP, the others wait and may be chosen later.

Method: Xu et al., "No Token Left Behind: Efficient Vision Transformer via Dynamic Token Idling" (arXiv 2310.05654; MIT
code, not copied). Each idle block ranks all patches by the product of the class token's query with their keys, mean
over heads, without scale and softmax. The best ones and the prefix tokens go through attention and MLP among
themselves and are written back to their places. No token is dropped, and the order stays.

Training adds the token-cut loss (``IdleViT.token_cut``), by which chosen tokens attend to chosen ones.

Ours: the counts are rounded up (``counts.py``), the published code rounds down: 137, 96, 68 of 196 in place of 137, 96,
67 at a ratio of 0.7. A distillation token and registers are chosen in every block, like the class token.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokfilter.vit.reducers.attention import attended, project, projected
from tokfilter.vit.reducers.base import BlockTokens, as_index
from tokfilter.vit.reducers.counts import default_stages
from tokfilter.vit.reducers.in_block import InBlockReducer, ReducedBlock

__all__ = ["IdleViT", "class_logits", "put_back", "token_cut_loss"]


class IdleViT(InBlockReducer):
    """Chooses the tokens of a block by the class token's query.

    stages: the blocks where the counts change, counted from 1. Every block from the first one on is an idle block.
        None: 5, 8, 11 of 12 as published for DeiT, else after each quarter of the depth but the last, as published for
        LV-ViT (5, 9, 13 of 16 and 6, 11, 16 of 20)
    """

    name = "idle"
    needs_class_token = True
    needs = "only some tokens take part in it"

    def __init__(self, backbone: Any, stages: Sequence[int] | None = None) -> None:
        depth = len(backbone.blocks)
        super().__init__(backbone, stages or ((5, 8, 11) if depth == 12 else default_stages(depth)))
        self.depth = depth
        self.cuts: list[Tensor] | None = None

    @property
    def choices(self) -> list[int]:
        """See Reducer: each idle block chooses."""
        return list(self.acts_in(self.depth).values())

    @contextmanager
    def token_cut(self) -> Iterator[list[Tensor]]:
        """Collect the token-cut loss of each idle block in the passes within.

        ``with model.drop.token_cut() as losses: logits = model(images, keep)``; the published training adds 20 times
        their mean to the loss. It costs the queries and an attention map of all tokens in each idle block.
        """
        losses: list[Tensor] = []
        self.cuts = losses
        try:
            yield losses
        finally:
            self.cuts = None

    def acts_in(self, depth: int) -> dict[int, int]:
        """Every block from the first stage on."""
        return {number: bisect_right(self.stages, number) - 1 for number in range(self.stages[0], depth + 1)}

    def choices_in_blocks(self, depth: int) -> list[tuple[int, int]]:
        """See Reducer: each idle block chooses."""
        return list(self.acts_in(depth).items())

    def run(self, block: ReducedBlock, tokens: Tensor) -> Tensor:
        """One idle block. tokens: [B, P+N, C]. Returns the same shape."""
        if self.state.k is None:
            return self.timm(block, tokens)
        inner, attention = block.block, block.block.attn
        normed = inner.norm1(tokens)
        keys = project(attention, normed, "keys")
        scores = class_logits(project(attention, normed[:, :1], "queries"), keys)[:, self.prefix_tokens :]
        # One selection for both, so that the plugin gathers the keys too.
        both, rows = self.chosen(torch.cat([tokens, keys.flatten(2)], dim=2), scores, self.kept(block.stage))
        assert self.state.last is not None
        self.state.last.all_left = True
        if self.cuts is not None:
            queries = project(attention, normed, "queries")
            self.cuts.append(token_cut_loss(queries, keys, rows, self.prefix_tokens, attention.scale))
        channels = tokens.shape[2]
        selected, left = both[:, :, :channels], both[:, :, channels:]
        normed = inner.norm1(selected)
        heads = (
            project(attention, normed, "queries"),
            left.reshape(*left.shape[:2], *keys.shape[2:]),
            project(attention, normed, "values"),
        )
        sums = attended(attention, *(part.transpose(1, 2) for part in heads))
        selected = selected + inner.drop_path1(inner.ls1(projected(attention, sums, normed)))
        return put_back(tokens, block.feed_forward(selected), rows, self.prefix_tokens)

    def reduce(self, stage: int, tokens: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Nothing is dropped between attention and MLP."""
        return tokens

    def blocks(self, k: int, depth: int) -> list[BlockTokens]:
        """See Reducer: attention and MLP get the chosen tokens."""
        counts = [self.num_patches] * depth
        if k < self.num_patches:
            kept = self.counts(k)
            for number, stage in self.acts_in(depth).items():
                counts[number - 1] = kept[stage]
        return [BlockTokens(self.prefix_tokens + count, self.prefix_tokens + count) for count in counts]


def class_logits(query: Tensor, keys: Tensor) -> Tensor:
    """Products of the class token's query with all keys, mean over heads.

    query: [B, 1, heads, c]
    keys: [B, T, heads, c]
    Returns [B, T].
    """
    logits = query.transpose(1, 2) @ keys.permute(0, 2, 3, 1)
    result: Tensor = logits.mean(dim=1)[:, 0]
    return result


def token_cut_loss(queries: Tensor, keys: Tensor, rows: Tensor, prefix_tokens: int, scale: float) -> Tensor:
    """How far the attention of all tokens is from two groups that attend to themselves only, the chosen and the idle.

    The attention map is the softmax of the logits' mean over heads. Let a be the part of a token's attention that goes
    to chosen tokens, prefix tokens included, and p the part that goes to prefix tokens. A chosen token adds
    2 (1 - a)^2, as 1 - a is what is missing within its group and what crosses to the other; an idle one adds (a - p)^2.
    queries, keys: [B, P+N, heads, c]
    rows: [B, k] int32, places of the chosen tokens among the N
    Returns the mean over images and tokens, a scalar.
    """
    logits = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * scale
    attention = logits.mean(dim=1).softmax(dim=-1)
    chosen = torch.zeros_like(attention[:, 0]).scatter(1, as_index(rows) + prefix_tokens, 1.0)
    chosen[:, :prefix_tokens] = 1.0
    to_chosen = (attention @ chosen[..., None])[..., 0]
    across = to_chosen - attention[:, :, :prefix_tokens].sum(dim=2)
    loss: Tensor = (chosen * 2 * (1 - to_chosen) ** 2 + (1 - chosen) * across**2).mean()
    return loss


def put_back(tokens: Tensor, changed: Tensor, rows: Tensor, prefix_tokens: int) -> Tensor:
    """Write tokens back to their places; the others stay as they were.

    tokens: [B, P+N, C]
    changed: [B, P+k, C], the prefix tokens and k patch tokens
    rows: [B, k] int32, places of the k among the N
    Returns [B, P+N, C].
    """
    images = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    prefix = torch.arange(prefix_tokens, device=tokens.device).expand(tokens.shape[0], -1)
    places = torch.cat([prefix, as_index(rows) + prefix_tokens], dim=1)
    return tokens.index_put((images.expand_as(places), places), changed)  # ScatterND in ONNX
