"""How many patch tokens each stage of a reducer leaves at a budget."""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["CONSTANT", "RATIO", "default_stages", "schedule_of", "stage_counts"]

RATIO: Final = "ratio"
"""Every stage keeps the same fraction of the tokens that it gets."""
CONSTANT: Final = "constant"
"""Every stage merges the same number of tokens, but half of those that it gets at most (ToMe's constant r)."""


def schedule_of(settings: Mapping[str, Any]) -> str:
    """The schedule by which a reducer with these settings counts."""
    return str(settings.get("schedule", RATIO))


def stage_counts(k: int, patches: int, stages: int, schedule: str = RATIO) -> list[int]:
    """Patch tokens that each stage keeps: k of N, then of those the same fraction again, rounded up.

    With the schedule CONSTANT, N - k fewer than the stage before, and half of them, rounded up, at least.
    Every stage keeps one token or more, and all of them at k = N. Whole numbers only, so that a graph computes the
    counts from the length of its input ``slots``.
    """
    counts = [k]
    for _ in range(stages - 1):
        before = counts[-1]
        if schedule == CONSTANT:
            counts.append(max(before - (patches - k), (before + 1) // 2))
        else:
            counts.append((before * k + patches - 1) // patches)
    return counts


def default_stages(depth: int) -> tuple[int, ...]:
    """The blocks after each quarter of the depth but the last, counted from 1: 4, 7, 10 of 12 (EViT, DynamicViT)."""
    return tuple(sorted({1 + depth * quarter // 4 for quarter in (1, 2, 3)}))
