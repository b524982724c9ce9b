"""Which reducer a model has, and its settings: plain values that a bundle and a manifest record.

A reducer is how a model gets rid of patch tokens (``vit/reducers/``). The names and settings form a closed set, because
files of others name them.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokfilter.artifacts.limits import MAX_STAGES

__all__ = ["REDUCERS", "ReducerConfig"]

Check = Callable[[Any], str]
"""What is expected of a setting, where a value is not that; empty where it is."""


def _stages(value: Any) -> str:
    expected = f"1 to {MAX_STAGES} block numbers that rise, from 1"
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_STAGES:
        return expected
    sound = all(type(block) is int and block >= 1 for block in value) and list(value) == sorted(set(value))
    return "" if sound else expected


def _flag(value: Any) -> str:
    return "" if type(value) is bool else "true or false"


def _windows(value: Any) -> str:
    expected = f"1 to {MAX_STAGES} numbers of windows per side, from 1, each a divisor of the one before"
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_STAGES:
        return expected
    sound = all(type(side) is int and side >= 1 for side in value)
    nested = sound and all(before % side == 0 for before, side in itertools.pairwise(value))
    return "" if nested else expected


def _schedule(value: Any) -> str:
    return "" if value in ("ratio", "constant") else "ratio or constant"


REDUCERS: Final[dict[str, dict[str, Check]]] = {
    "filter": {},
    "evit": {"stages": _stages, "fuse": _flag},
    "tome": {"stages": _stages, "schedule": _schedule},
    "dynamic": {"stages": _stages},
    "idle": {"stages": _stages},
    "frequency": {"stages": _stages, "windows": _windows},
}
"""Name of a reducer -> its settings, each with the check of its value. A setting that is left out has its default."""


@dataclass(frozen=True)
class ReducerConfig:
    """A reducer by name, and its settings.

    settings: stages (blocks, counted from 1) and what else ``REDUCERS`` lists; the reducer's class says what each does
    Raises ValueError for what is not in the closed set.
    """

    name: str = "filter"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in REDUCERS:
            raise ValueError(f"a reducer is one of {', '.join(REDUCERS)}, got {self.name!r:.50}")
        known = REDUCERS[self.name]
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"the settings of a reducer have names, got {self.settings!r:.50}")
        for setting, value in self.settings.items():
            if setting not in known:
                allowed = ", ".join(known) or "none"
                raise ValueError(f"the settings of {self.name} are {allowed}, got {setting!r:.50}")
            expected = known[setting](value)
            if expected:
                raise ValueError(f"{setting} of {self.name} must be {expected}, got {value!r:.50}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in self.settings.items()}
        return {"name": self.name, "settings": settings}
