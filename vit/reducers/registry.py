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

__all__ = ["install_reducer"]

_IN_BLOCK: Final[dict[str, type[InBlockReducer]]] = {
    kind.name: kind for kind in (EViT, IdleViT, FrequencyAware, ToMe, DynamicViT)
}


def install_reducer(backbone: Any, config: ReducerConfig, scorer: nn.Module | None = None) -> Reducer:
    """Put a reducer into the slot ``patch_drop`` of a timm model, and wrap the blocks where it acts.

    scorer: of the filter; default: a new ``TokenFilter``
    Raises UnsupportedModelError with the reason where the reducer cannot act in the model.
    """
    reducer: Reducer
    if config.name in _IN_BLOCK:
        kind = _IN_BLOCK[config.name]
        kind.check(backbone)
        reducer = in_block = kind(backbone, **config.settings)
        in_block.attach(backbone)
    else:
        slot = TokenDropWithIndices if isinstance(backbone, Eva) else TokenDrop
        slot.check(backbone)
        scorer = scorer or TokenFilter(backbone.embed_dim)
        reducer = slot(scorer, backbone.num_prefix_tokens, backbone.patch_embed.num_patches)
    backbone.patch_drop = reducer
    return reducer
