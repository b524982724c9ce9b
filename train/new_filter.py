"""What a new filter has that no setting asked for: neighbours, and a global context (``vit/global_context.py``)."""

from dataclasses import replace

from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.train.config import TrainConfig
from tokfilter.vit.model import FilteredViT

__all__ = ["shape_of_new_filter"]


def shape_of_new_filter(
    shape: FilterConfig, old: FilterConfig | None, trained: bool, model: FilteredViT, config: TrainConfig
) -> FilterConfig:
    """``shape`` with the neighbours and the context that are asked for, those of the old filter, or the defaults.

    old: filter in whose place the new one is; None: there was none
    trained: whether the old one was trained; the defaults are for models that had no trained filter
    """
    old = old or FilterConfig()
    summary = config.filter_config.summary or old.summary
    neighbours = old.neighbours
    if not trained:
        summary = summary or _default_context(model, config)
        neighbours = neighbours or _default_neighbours(model, config)
    asked = config.filter_config.neighbours or config.neighbours
    return replace(shape, summary=summary, neighbours=neighbours if asked is None else asked)


def _default_context(model: FilteredViT, config: TrainConfig) -> int:
    """The stage finetune trains the context, so it has no use without that stage.

    It is added to the class token, which the model must have, and which a mask head does not read.
    """
    useful = "finetune" in config.stages and model.has_class_token and model.mask_head is None
    return config.new_context if useful else 0


def _default_neighbours(model: FilteredViT, config: TrainConfig) -> bool:
    """Where they gained (docs/study.md): on a frozen backbone and for embeddings they did not.

    With a mask head they were not measured.
    """
    return (
        "filter" in config.stages and not config.frozen and config.labels.loss != "feature" and model.mask_head is None
    )
