"""Activation checkpointing: timm's, block by block, for models whose blocks give the same tokens when run again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from tokfilter.errors import DataError
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.in_block import InBlockReducer

__all__ = ["Checkpointing", "recomputed_blocks"]

Checkpointing = Literal["off", "on"]


@contextmanager
def recomputed_blocks(model: Any, checkpointing: Checkpointing) -> Iterator[None]:
    """Keep the inputs of blocks alone in passes within, and run each block again for its gradients.

    Raises DataError for a reducer inside blocks: a block would run again with the budget of the step's last pass.
    """
    if checkpointing == "off":
        yield
        return
    if not isinstance(model, FilteredViT) or isinstance(model.drop, InBlockReducer):
        name = model.drop.name if isinstance(model, FilteredViT) else type(model).__name__
        raise DataError(
            f"activation checkpointing needs a model whose tokens are dropped before its blocks, by the filter, got "
            f"{name}: set checkpointing to off, and accumulate for less memory."
        )
    model.backbone.set_grad_checkpointing(True)
    try:
        yield
    finally:
        model.backbone.set_grad_checkpointing(False)
