"""Golden tensors: inputs and outputs that torch computed once, and that every later stage is compared with."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.bundle import Golden
from tokfilter.artifacts.later import LaterChoices
from tokfilter.kernels.torch_op import token_select
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.base import Select
from tokfilter.vit.reducers.tome import Pick, ToMe, best_partners

__all__ = ["golden_from_model", "later_from_model"]


@torch.inference_mode()
def golden_from_model(model: FilteredViT, images: Tensor, keeps: Sequence[Keep]) -> Golden:
    """Golden tensors of a model in evaluation mode at some budgets; the full token count is left out.

    images: [G, 3, H, W], normalised
    """
    was_training = model.training
    model.eval()
    full = model(images, 1.0)
    logits: dict[int, Tensor] = {}
    indices: dict[int, Tensor] = {}
    for k in sorted({tokens_from_keep(keep, model.num_patches) for keep in keeps} - {model.num_patches}):
        logits[k] = model(images, k).clone()
        assert model.last.indices is not None
        indices[k] = model.last.indices.clone()
    scores = model.scores(images)
    model.train(was_training)
    return Golden(images.clone(), scores.clone(), full.clone(), logits, indices)


@torch.inference_mode()
def later_from_model(model: FilteredViT, images: Tensor, kept: Mapping[int, Tensor]) -> dict[int, LaterChoices]:
    """What a model in evaluation mode keeps behind its first choice; empty where it chooses once and merges nothing.

    images: [G, 3, H, W], normalised
    kept: budget k -> [G, k] int32, positions that the first choice keeps; those of the golden tensors
    """
    reducer = model.drop
    if len(reducer.choices) == 1 and not reducer.merges:
        return {}
    old, found = reducer.select, {}
    gaps: list[Tensor] = []
    try:
        for k, positions in kept.items():
            gaps.clear()
            reducer.select = _select_first(positions)
            if isinstance(reducer, ToMe):
                reducer.pick = _pick_with_gap(gaps)
            model(images, k)
            found[k] = _later(model, gaps)
    finally:
        reducer.select = old
        if isinstance(reducer, ToMe):
            reducer.pick = best_partners
    return found


def _select_first(positions: Tensor) -> Select:
    """A selection whose first call keeps the given positions [B, k]."""
    waiting = [positions]

    def select(tokens: Tensor, scores: Tensor, k: int, prefix_tokens: int) -> tuple[Tensor, Tensor]:
        if waiting:
            scores = torch.zeros_like(scores).scatter(1, waiting.pop().long(), 1.0)
        return token_select(tokens, scores, k, prefix_tokens)

    return select


def _pick_with_gap(gaps: list[Tensor]) -> Pick:
    def pick(similarity: Tensor) -> tuple[Tensor, Tensor]:
        best, partners = best_partners(similarity)
        others = similarity.scatter(-1, partners[..., None], -torch.inf)
        gaps.append((best - others.amax(dim=-1)).clamp(max=2.0))  # 2: a single token has no second best
        return best, partners

    return pick


def _later(model: FilteredViT, gaps: list[Tensor]) -> LaterChoices:
    last = model.last
    assert last.indices is not None and last.scores is not None
    kept = [last.indices, *last.later]
    ranked = [last.scores, *last.later_scores]
    choices = np.array([[rows.shape[1], scores.shape[1]] for rows, scores in zip(kept, ranked, strict=True)], np.int32)
    none = last.indices[:, :0]
    later = torch.cat([none, *last.later], dim=1).numpy()
    scores = torch.cat([none.float(), *last.later_scores], dim=1).numpy()
    if not last.partners:
        return LaterChoices(choices, later, scores)
    return LaterChoices(choices, later, scores, torch.cat(last.partners, dim=1).numpy(), torch.cat(gaps, dim=1).numpy())
