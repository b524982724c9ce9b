"""Reducers by name."""

from typing import Any, Final

from timm.models.eva import Eva
from torch import nn

from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.vit.reducers.base import Reducer
from tokfilter.vit.reducers.dynamic import DynamicViT
from tokfilter.vit.reducers.evit import EViT
from tokfilter.vit.reducers.filter import TokenDrop, TokenDropWithIndices
from tokfilter.vit.reducers.frequency import FrequencyAware
from tokfilter.vit.reducers.idle import IdleViT
from tokfilter.vit.reducers.in_block import InBlockReducer
from tokfilter.vit.reducers.tome import ToMe
from tokfilter.vit.scorers import TokenFilter

__all__ = ["install_reducer", "made_reducer"]

_IN_BLOCK: Final[dict[str, type[InBlockReducer]]] = {
    kind.name: kind for kind in (EViT, IdleViT, FrequencyAware, ToMe, DynamicViT)
}


def made_reducer(backbone: Any, config: ReducerConfig, scorer: nn.Module | None = None) -> Reducer:
    """A reducer for a timm model, which is not changed yet.

    scorer: of the filter; default: a new ``TokenFilter``
    Raises UnsupportedModelError with the reason where the reducer cannot act in the model.
    """
    if config.name in _IN_BLOCK:
        kind = _IN_BLOCK[config.name]
        kind.check(backbone)
        return kind(backbone, **config.settings)
    slot = TokenDropWithIndices if isinstance(backbone, Eva) else TokenDrop
    slot.check(backbone)
    scorer = scorer or TokenFilter(backbone.embed_dim)
    return slot(scorer, backbone.num_prefix_tokens, backbone.patch_embed.num_patches)


def install_reducer(backbone: Any, reducer: Reducer) -> None:
    """Put a reducer into the slot ``patch_drop`` of its timm model, and wrap the blocks where it acts."""
    if isinstance(reducer, InBlockReducer):
        reducer.attach(backbone)
    backbone.patch_drop = reducer
