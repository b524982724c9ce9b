"""Losses beside the labels' in fine-tuning: IdleViT's token-cut loss, and distillation of features.

The training of IdleViT (Xu et al., arXiv 2310.05654) adds all three: 20 times the token-cut loss, 10 times the
divergence from the logits of the model with every token, and 1000 times the mean squared difference of its normalised
features. Ours, for every reducer: which features are compared (``feature_distance``), and that each is normalised over
its channels, with the sum over channels in place of the mean, so that the weight does not depend on their number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.idle import IdleViT

__all__ = ["Features", "check_losses", "feature_distance", "final_features", "token_cuts"]


@dataclass(frozen=True)
class Features:
    """Tokens behind the last norm of one pass.

    tokens: [B, P+n, C]
    prefix: P
    places: [B, n], where the patch tokens stand among the N; None: all N stand in their order
    placed: whether they have places: False where the reducer adds or merges tokens
    """

    tokens: Tensor
    prefix: int
    places: Tensor | None
    placed: bool


def check_losses(reducer: str, token_cut: float) -> None:
    """Raise DataError where a reducer has no token-cut loss and it is asked for."""
    if token_cut > 0 and reducer != IdleViT.name:
        raise DataError(
            f"the token-cut loss is that of the reducer {IdleViT.name}, and this model's reducer is {reducer}: set "
            "finetune.token_cut to 0. Distillation (finetune.distill, finetune.distill_features) is for every reducer."
        )


@contextmanager
def token_cuts(model: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect the token-cut loss of each idle block of the passes within; none of passes with every token."""
    if not wanted:
        yield []
        return
    reducer: IdleViT = model.drop
    with reducer.token_cut() as losses:
        yield losses


@contextmanager
def final_features(model: Any, wanted: bool) -> Iterator[list[Features]]:
    """Collect the tokens behind the last norm of the passes within. Raises DataError for what is no FilteredViT."""
    found: list[Features] = []
    if not wanted:
        yield found
        return
    if not isinstance(model, FilteredViT):
        raise DataError(f"features are distilled into a model of tokfilter.patch, got {type(model).__name__}.")
    placed = not model.drop.adds_tokens

    def store(module: Any, inputs: Any, tokens: Tensor) -> None:
        found.append(Features(tokens, model.prefix_tokens, model.last.places if placed else None, placed))

    hook = model.backbone.norm.register_forward_hook(store)
    try:
        yield found
    finally:
        hook.remove()


def feature_distance(parts: Sequence[Features], teacher: Tensor) -> Tensor:
    """Squared distance of features of length 1, 2 (1 - cosine), mean over tokens, then over images; a scalar.

    Compared are the prefix tokens, and the patch tokens that are left, each with the teacher's token of its place.
    Where a reducer adds or merges tokens, the prefix tokens alone; without any, the means over the patch tokens.
    parts: of the images, in their order
    teacher: [B, P+N, C], of all images with every token, behind the last norm
    """
    targets = torch.split(teacher, [len(part.tokens) for part in parts])
    distances = [_distances(part, target) for part, target in zip(parts, targets, strict=True)]
    return torch.cat(distances).mean()


def _distances(student: Features, teacher: Tensor) -> Tensor:
    """Distance of each image [B]."""
    tokens, prefix = student.tokens, student.prefix
    if not student.placed:
        compared = [part[:, :prefix] if prefix else part.mean(dim=1, keepdim=True) for part in (tokens, teacher)]
    elif student.places is None:
        compared = [tokens, teacher]
    else:
        rows = student.places.long()[:, :, None].expand(-1, -1, teacher.shape[2])
        compared = [tokens, torch.cat([teacher[:, :prefix], teacher[:, prefix:].gather(1, rows)], dim=1)]
    one, other = (F.normalize(part, dim=-1) for part in compared)
    return (one - other).square().sum(dim=-1).mean(dim=1)
