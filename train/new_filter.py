"""What a new filter has that no setting asked for: neighbours, and a global context (``vit/global_context.py``)."""

from dataclasses import replace

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.train.config import TrainConfig
from tokfilter.vit.model import FilteredViT

__all__ = ["with_defaults", "with_parts_of"]


def with_defaults(shape: FilterConfig, model: FilteredViT, config: TrainConfig) -> FilterConfig:
    """The shape of a new filter, with ``config.new_neighbours`` and ``config.new_context`` where a model can use them.

    The stage finetune trains the context, so it has no use without that stage. It is added to the class token, which
    the model must have, and which a mask head does not read. Neighbours were not measured with a mask head.
    """
    if model.mask_head is not None:
        return shape
    shape = replace(shape, neighbours=shape.neighbours or config.new_neighbours)
    useful = "finetune" in config.stages and model.has_class_token
    return replace(shape, summary=config.new_context) if useful and not shape.summary else shape


def with_parts_of(old: FilterConfig, shape: FilterConfig, config: TrainConfig) -> FilterConfig:
    """The shape of a filter that takes the place of an ``old`` one: what no setting asks for stays as it was."""
    neighbours = shape.neighbours or (config.new_neighbours and old.neighbours)
    return replace(shape, summary=shape.summary or old.summary, neighbours=neighbours)
