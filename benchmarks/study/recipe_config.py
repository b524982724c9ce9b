"""The default recipe of ``tokfilter train``, for the small models of the study."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.benchmarks.study.tasks import Task
from tokfilter.train.config import TrainConfig
from tokfilter.train.recipe import config_from_recipe
from tokfilter.train.recipe_file import changed_recipe, recipe_from_source, values_from_texts

__all__ = ["config_of_task"]

_STAGES: Final = ("label", "filter", "finetune")


def config_of_task(
    task: Task, images: int, seed: int, changes: Sequence[str] = (), reducer: str = "filter"
) -> TrainConfig:
    """Settings of the stages after the backbone's.

    Three settings are for these models, which are narrow and were trained from random weights a few minutes before: the
    filter's width, as in the rest of the study; the learning rate of fine-tuning, which is that of the backbone; images
    are mirrored where the study does it.
    images: number of training images
    changes: settings that differ from the recipe's, such as ``filter.objective=ranking``
    reducer: takes the recipe's fine-tuning, in place of the filter
    """
    own = ("filter.width=32", "finetune.lr=1e-3", f"data.flip={task.config.flip}", f"seed={seed}", "keep=0.25")
    recipe = changed_recipe(recipe_from_source("default"), values_from_texts([*own, *changes]))
    stages = _STAGES if reducer == "filter" else ("finetune",)
    config = config_from_recipe(recipe, images, stages, ReducerConfig(reducer))
    return config if reducer == "filter" else replace(config, keep=1.0)
