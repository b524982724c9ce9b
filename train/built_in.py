"""The built-in recipes, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tokfilter.train.recipe import FilterSettings, FinetuneSettings, LabelSettings, Recipe

__all__ = ["BUILT_IN", "FROZEN"]

FROZEN: Final = Recipe(
    frozen=True,
    loss="kl",
    labels=LabelSettings(
        method="grouped",
        mask="removed",
        group_shape="random",
        group_size=0,
        group_rounds=25,
        group_estimate="log-ridge",
        limit=600,
    ),
    filter=FilterSettings(epochs=33, batch=32, objective="ranking", global_context=64),
    finetune=FinetuneSettings(epochs=2, batch=32, lr=2e-3, weight_decay=0.01, min_keep=0.2),
)
"""A filter for a backbone whose weights stay as they are (docs/frozen.md)."""

BUILT_IN: Final[Mapping[str, Recipe]] = MappingProxyType({"default": Recipe(), "frozen": FROZEN})
