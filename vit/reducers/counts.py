"""How many patch tokens each stage of a reducer leaves at a budget."""

__all__ = ["default_stages", "stage_counts"]


def stage_counts(k: int, patches: int, stages: int) -> list[int]:
    """Patch tokens that each stage keeps: k of N, then of those the same fraction again, rounded up.

    Rounded up, every stage keeps one token or more, and all of them at k = N. Whole numbers only, so that a graph
    computes the counts from the length of its input ``slots``.
    """
    counts = [k]
    for _ in range(stages - 1):
        counts.append((counts[-1] * k + patches - 1) // patches)
    return counts


def default_stages(depth: int) -> tuple[int, ...]:
    """The blocks after each quarter of the depth but the last, counted from 1: 4, 7, 10 of 12 (EViT, DynamicViT)."""
    return tuple(sorted({1 + depth * quarter // 4 for quarter in (1, 2, 3)}))
