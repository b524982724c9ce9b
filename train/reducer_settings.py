"""The recipe's table of reducers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import RecipeError
from tokfilter.train.data_settings import about

__all__ = ["ReducerSettings"]


@dataclass(frozen=True)
class ReducerSettings:
    """What gets rid of tokens (docs/reducers.md). Each reducer takes some of the settings; unset: its default."""

    name: Literal["filter", "evit", "tome", "dynamic", "idle", "frequency"] | None = field(
        default=None, metadata=about("what gets rid of tokens; unset: the start model's, or the token filter")
    )
    stages: tuple[int, ...] | None = field(
        default=None, metadata=about("blocks where it acts, counted from 1, such as 4,7,10")
    )
    fuse: bool | None = field(
        default=None, metadata=about("evit: fuse the dropped tokens of a stage into one; false drops them")
    )
    windows: tuple[int, ...] | None = field(
        default=None, metadata=about("frequency: windows per side of the grid for each stage, such as 2,1,1")
    )
    schedule: Literal["ratio", "constant"] | None = field(
        default=None,
        metadata=about("tome: each stage keeps the same ratio of its tokens, or merges the same number of them"),
    )

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are set, as a reducer takes them."""
        values = {"stages": self.stages, "fuse": self.fuse, "windows": self.windows, "schedule": self.schedule}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    def config(self, start: ReducerConfig | None = None) -> ReducerConfig:
        """The reducer, with the settings of the start model's where it is the same.

        Raises RecipeError for settings that it does not have.
        """
        name = self.name or (start.name if start is not None else "filter")
        own = start.settings if start is not None and start.name == name else {}
        return _reducer(name, {**own, **self.given})

    def sample(self) -> ReducerConfig:
        """A reducer to check a recipe with while the start model is unknown: the named one, or one with these settings.

        Raises RecipeError where none has them all.
        """
        fitting = (name for name, known in REDUCERS.items() if self.given.keys() <= known.keys())
        return _reducer(self.name or next(fitting, "filter"), self.given)


def _reducer(name: str, settings: Mapping[str, Any]) -> ReducerConfig:
    try:
        return ReducerConfig(name, settings)
    except ValueError as error:
        remedy = "reducer.name (--reducer) chooses another reducer, reducer.NAME=none unsets a setting"
        raise RecipeError(f"{error}: {remedy}.") from error
