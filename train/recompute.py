"""Activation checkpointing: timm's, block by block, for models whose blocks give the same tokens when run again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from tokfilter.errors import DataError
from tokfilter.vit.model import FilteredViT

__all__ = ["Checkpointing", "check_recomputed", "recomputed_blocks"]

Checkpointing = Literal["off", "on"]


def check_recomputed(name: str, checkpointing: Checkpointing) -> None:
    """Raise DataError for checkpointing with a reducer inside blocks. name: of the reducer"""
    if checkpointing == "on" and name != "filter":
        raise DataError(
            f"activation checkpointing needs a model whose tokens are dropped before its blocks, by the filter, got "
            f"{name}: set checkpointing to off, and accumulate for less memory."
        )


@contextmanager
def recomputed_blocks(model: Any, checkpointing: Checkpointing) -> Iterator[None]:
    """Keep the inputs of blocks alone in passes within, and run each block again for its gradients.

    Raises DataError for a reducer inside blocks: a block would run again with the budget of the step's last pass.
    """
    if checkpointing == "off":
        yield
        return
    check_recomputed(model.drop.name if isinstance(model, FilteredViT) else type(model).__name__, checkpointing)
    model.backbone.set_grad_checkpointing(True)
    try:
        yield
    finally:
        model.backbone.set_grad_checkpointing(False)
