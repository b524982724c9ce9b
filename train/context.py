"""Which new filters get a global context (``vit/global_context.py``) that nobody asked for."""

from dataclasses import replace

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.train.config import TrainConfig
from tokfilter.vit.model import FilteredViT

__all__ = ["with_new_context"]


def with_new_context(shape: FilterConfig, model: FilteredViT, config: TrainConfig) -> FilterConfig:
    """The shape of a new filter, with ``config.new_context`` where it has no context and the model can use one.

    The stage finetune trains it, so it has no use without that stage. It is added to the class token, which the model
    must have, and which a mask head does not read.
    """
    useful = "finetune" in config.stages and model.has_class_token and model.mask_head is None
    return replace(shape, summary=config.new_context) if useful and not shape.summary else shape
