"""The default recipe of ``tokfilter train``, for the models of the study."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
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

    Some settings are the task's: the learning rate of fine-tuning, which is that of its backbone; of the small models,
    which are narrow, the filter's width, as in the rest of the study; images are mirrored where the study does it.
    images: number of training images
    changes: settings that differ from the recipe's and the task's, such as ``filter.objective=ranking``
    reducer: takes the recipe's fine-tuning, in place of the filter; so do the baselines
    """
    own = (*task.recipe, f"data.flip={task.config.flip}", f"seed={seed}", "keep=0.25")
    recipe = changed_recipe(recipe_from_source("default"), values_from_texts([*own, *changes]))
    stages = _STAGES if reducer == "filter" else ("finetune",)
    kind = reducer if reducer in REDUCERS else "filter"
    config = config_from_recipe(recipe, images, stages, ReducerConfig(kind))
    return config if reducer == "filter" else replace(config, keep=1.0)
