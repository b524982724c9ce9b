"""Budgets: how many patch tokens are kept, given as a ratio or as a count."""

import math
from collections.abc import Sequence

from tokfilter.errors import BudgetError

__all__ = ["Keep", "keep_from_text", "keeps_from_text", "tokens_from_keep"]

Keep = float | int
"""A ratio in (0, 1] when a float, a count of patch tokens when an int."""


def tokens_from_keep(keep: Keep, patches: int) -> int:
    """The budget k in 1..patches that ``keep`` stands for: a count as it is, a ratio as floor(ratio * patches).

    The floor follows the field (DynamicViT, EViT); a ratio too small for one token keeps one. Raises BudgetError.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise BudgetError(f"keep wants a ratio in (0, 1] or a count of tokens, got {keep!r}.")
    if isinstance(keep, int):
        if not 1 <= keep <= patches:
            raise BudgetError(f"keep wants a count between 1 and this model's {patches} patch tokens, got {keep}.")
        return keep
    if not 0.0 < keep <= 1.0:  # false for NaN too
        raise BudgetError(f"keep wants a ratio in (0, 1] or a count of tokens, got {keep}.")
    # 0.29 * 100 is 28.999999999999996: a ratio that names a whole number of tokens must get it.
    return max(1, math.floor(keep * patches + 1e-9))


def keep_from_text(text: str) -> Keep:
    """Read a budget as typed: ``0.5`` and ``1`` are ratios, ``98`` (2 or more) is a count. Raises BudgetError."""
    try:
        value = float(text)
    except ValueError:
        raise BudgetError(f"keep wants a ratio in (0, 1] or a count of tokens, got {text!r}.") from None
    if 0.0 < value <= 1.0:
        return value
    if value >= 2 and value.is_integer():
        return int(value)
    raise BudgetError(f"keep wants a ratio in (0, 1] or a count of 2 tokens or more, got {text!r}.")


def keeps_from_text(texts: Sequence[str]) -> list[Keep]:
    """Read budgets as typed, each text one budget or several with commas between. Raises BudgetError."""
    return [keep_from_text(part.strip()) for text in texts for part in text.split(",")]
