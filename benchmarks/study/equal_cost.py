"""Budgets of the reducers that cost what the filtered model costs, and the budgets of a curve.

Each budget of the filter is matched by the smallest budget of a reducer that costs at least as many
multiply-accumulates as the filtered model, filter included: never fewer. Token merging is counted as an implementation
with scattered sums would run it, which gives it more tokens than our graphs' cost would. The curve is for the
comparison at equal latency, where other budgets than these are needed.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import UnreachableBudgetError
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.equal_macs import tokens_at_macs
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.tome import ToMe

__all__ = ["OTHER_REDUCERS", "count", "curve_budgets", "equal_budgets", "filtered_model", "reduced_model"]

OTHER_REDUCERS: Final = tuple(name for name in REDUCERS if name != "filter")
"""The reducers that are compared with the filter."""

_CURVE: Final = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.125)


def filtered_model(architecture: Architecture, config: FilterConfig) -> FilteredViT:
    """A model with the token filter and random weights: its costs are those to match."""
    model = FilteredViT(create_backbone(architecture), keep=1.0)
    model.drop.scorer = model.new_filter(config)
    return model.eval()


def reduced_model(architecture: Architecture, name: str, weights: Mapping[str, Tensor] | None = None) -> FilteredViT:
    """A model with another reducer in its default settings. weights: of the timm model; None: random ones.

    What the reducer learns has random weights, the same in every process, where outputs of this model are compared.
    Raises UnsupportedModelError.
    """
    backbone = create_backbone(architecture)
    if weights is not None:
        backbone.load_state_dict(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FilteredViT(backbone, keep=1.0, reducer=ReducerConfig(name))
    model.drop.state.warned = True  # of predictors with random weights: here they are timed and counted only
    return model.eval()


def equal_budgets(
    model: FilteredViT, filtered: FilteredViT, budgets: Iterable[int]
) -> tuple[dict[int, int], dict[int, str]]:
    """For each budget of the filter the model's own budget of equal cost, or the reason why there is none."""
    found: dict[int, int] = {}
    absent: dict[int, str] = {}
    for k in budgets:
        try:
            found[k] = tokens_at_macs(model, count(filtered, k), count)
        except UnreachableBudgetError as error:
            absent[k] = str(error)
    return found, absent


def count(model: FilteredViT, k: int) -> int:
    """Multiply-accumulates of one of the study's small models for one image, without what only our ToMe computes."""
    return macs(model, k, fake=False) - _spared(model, k)


def _spared(model: FilteredViT, k: int) -> int:
    """What merging costs in ``tome.py`` and not with scattered sums and similarities between the two sets alone."""
    if not isinstance(model.drop, ToMe) or k == model.num_patches:
        return 0
    channels = model.backbone.embed_dim
    keys = channels // model.backbone.blocks[0].attn.num_heads
    spared, before = 0, model.num_patches
    for after in model.drop.counts(k):
        product = after * before * (channels + 1)  # with zeros and ones, for the tokens and for their sizes
        within = before**2 - (before // 2) * (before - before // 2)
        spared, before = spared + product + within * keys, after
    return spared


def curve_budgets(model: FilteredViT) -> list[int]:
    """Further budgets of a reducer, largest first."""
    counts = {tokens_from_keep(keep, model.num_patches) for keep in _CURVE}
    return sorted((k for k in counts if k >= model.drop.smallest), reverse=True)
