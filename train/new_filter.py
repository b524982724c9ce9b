"""What a new filter has that no setting asked for: neighbours, and a global context (``vit/global_context.py``)."""

from dataclasses import replace

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.train.config import TrainConfig
from tokfilter.vit.model import FilteredViT

__all__ = ["shape_of_new_filter"]


def shape_of_new_filter(
    shape: FilterConfig, old: FilterConfig | None, trained: bool, model: FilteredViT, config: TrainConfig
) -> FilterConfig:
    """``shape`` with the neighbours and the context that are asked for, or else those of the old filter.

    A context is also given to a model that had no trained filter (``config.new_context``), where it is of use.
    old: filter in whose place the new one is; None: there was none
    trained: whether the old one was trained
    """
    old = old or FilterConfig()
    summary = config.filter_config.summary or old.summary
    if not trained:
        summary = summary or _default_context(model, config)
    asked = config.filter_config.neighbours or config.neighbours
    return replace(shape, summary=summary, neighbours=old.neighbours if asked is None else asked)


def _default_context(model: FilteredViT, config: TrainConfig) -> int:
    """The stage finetune trains the context, so it has no use without that stage.

    It is added to the class token, which the model must have, and which a mask head does not read.
    """
    useful = "finetune" in config.stages and model.has_class_token and model.mask_head is None
    return config.new_context if useful else 0
