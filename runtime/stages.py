"""What each choice of tokens inside the blocks does with the patches: kept, dropped, in one token, idle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokfilter.errors import DataError
from tokfilter.vit.reducers.counts import schedule_of, stage_counts

__all__ = ["Stage", "output_lengths", "stages_from_outputs"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One choice.

    block: where it is made, counted from 1
    owner: [N], the token that each patch is in behind it, counted from 0; -1 for a patch that was dropped
    fused: of these tokens those that were made of patches that are not kept, also where it is one patch
    idle: [N], patches that wait in this block
    """

    block: int
    owner: npt.NDArray[np.int64]
    fused: frozenset[int]
    idle: npt.NDArray[np.bool_]

    @property
    def groups(self) -> list[list[int]]:
        """Positions of the patches of each token that stands for several patches, or was fused."""
        tokens, sizes = np.unique(self.owner[self.owner >= 0], return_counts=True)
        several = [int(t) for t, size in zip(tokens, sizes, strict=True) if size > 1 or int(t) in self.fused]
        return [np.flatnonzero(self.owner == token).tolist() for token in several]

    @property
    def alone(self) -> list[int]:
        """Positions of patches that are tokens of their own and not idle."""
        grouped = {position for group in self.groups for position in group}
        there = np.flatnonzero((self.owner >= 0) & ~self.idle).tolist()
        return [position for position in there if position not in grouped]

    @property
    def waiting(self) -> list[int]:
        """Positions of idle patches."""
        return [int(position) for position in np.flatnonzero(self.idle)]

    @property
    def dropped(self) -> list[int]:
        """Positions of patches that are in no token."""
        return [int(position) for position in np.flatnonzero(self.owner < 0)]

    @property
    def summary(self) -> str:
        """Numbers of patches in words."""
        groups = self.groups
        parts = [f"{len(self.alone)} kept"]
        if groups:
            parts.append(f"{sum(map(len, groups))} in {len(groups)} token{'s' * (len(groups) > 1)}")
        for word, count in (("idle", len(self.waiting)), ("dropped", len(self.dropped))):
            if count:
                parts.append(f"{count} {word}")
        return f"block {self.block}: {', '.join(parts)}"


def output_lengths(
    reducer: Mapping[str, Any], choices: Sequence[Sequence[int]], patches: int, k: int
) -> dict[str, int]:
    """Columns of the outputs ``later_indices`` and ``partners`` at a budget of k; empty where there is one choice.

    reducer: name and settings
    choices: (block, stage) of each choice
    """
    if not choices:
        return {}
    counts = _counts(reducer, choices, patches, k)
    return {"later_indices": sum(counts[1:]), "partners": patches + sum(counts[:-1])}


def stages_from_outputs(
    reducer: Mapping[str, Any],
    choices: Sequence[Sequence[int]],
    grid: tuple[int, int],
    indices: Array,
    later: Array | None,
    partners: Array | None,
) -> list[Stage]:
    """The stages of one image from what a model or session returns.

    reducer: name and settings, defaults included
    choices: (block, stage) of each choice; a filter has none
    indices, later, partners: [k], [k_2 + ...], [N + k_1 ...]; see ``runtime.session.Result``
    Raises DataError where they do not fit each other.
    """
    if not choices:
        return []
    patches = grid[0] * grid[1]
    counts = _counts(reducer, choices, patches, len(indices))
    rows = np.concatenate([indices, () if later is None else later]).astype(np.int64)
    if len(rows) != sum(counts):
        raise DataError(f"the choices of {reducer['name']} keep {counts} tokens, got {len(rows)} rows. Export again.")
    walk = _Walk(reducer, grid, patches)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    try:
        if partners is not None:
            ends = np.cumsum([patches, *counts[:-1]])
            merges: Sequence[Array | None] = np.split(partners.astype(np.int64), ends[:-1])
        else:
            merges = [None] * len(parts)
        return [
            walk.step(int(block), int(stage), kept, into)
            for (block, stage), kept, into in zip(choices, parts, merges, strict=True)
        ]
    except (IndexError, ValueError) as error:
        raise DataError(f"the tokens that {reducer['name']} kept do not fit each other ({error}).") from error


def _counts(reducer: Mapping[str, Any], choices: Sequence[Sequence[int]], patches: int, k: int) -> list[int]:
    """Tokens that each choice keeps."""
    stages = max(stage for _, stage in choices) + 1
    by_stage = stage_counts(k, patches, stages, schedule_of(reducer["settings"]))
    return [by_stage[stage] for _, stage in choices]


class _Walk:
    """Follows the patches through the choices."""

    def __init__(self, reducer: Mapping[str, Any], grid: tuple[int, int], patches: int) -> None:
        self.name, self.settings, self.grid = reducer["name"], reducer["settings"], grid
        self.owner = np.arange(patches)
        self.fused: set[int] = set()
        self.count = patches  # tokens that the next choice ranks

    def step(self, block: int, stage: int, kept: Array, into: Array | None) -> Stage:
        """One choice: kept rows, and the rows that the others are merged into."""
        place = np.full(self.count, -1)
        place[kept] = np.arange(len(kept))
        if self.name == "idle":
            return Stage(block, self.owner, frozenset(), place < 0)
        k = len(kept)
        fused = {int(place[token]) for token in self.fused if token < self.count and place[token] >= 0}
        if into is not None:
            place = np.where(place >= 0, place, place[into])
        elif self.name == "evit" and self.settings.get("fuse", True):
            place[place < 0] = k
            fused.add(k)
        if self.name == "frequency":
            windows = k + _windows(self.grid, int(self.settings["windows"][stage]))
            ranked = np.append(place, -1)[np.minimum(self.owner, self.count)]
            self.owner = np.where(ranked >= 0, ranked, windows)
            fused = set(np.unique(windows[ranked < 0]).tolist())
        else:
            self.owner = np.where(self.owner >= 0, place[self.owner], -1)
        self.fused = fused
        self.count = k + (self.name == "evit" and k in fused)
        return Stage(block, self.owner, frozenset(fused), np.zeros(len(self.owner), np.bool_))


def _windows(grid: tuple[int, int], side: int) -> Array:
    """[N], the window of each patch: as ``vit/reducers/frequency.py``."""
    rows, columns = (np.arange(length) * side // length for length in grid)
    return (rows[:, None] * side + columns).ravel()
