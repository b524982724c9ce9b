"""Budgets: the number of patch tokens that a model keeps, given as a ratio or as a count.

One rule in Python, on the command line, over HTTP, in C++ and in every file: a float is a ratio in (0, 1], an int is a
count of 1 or more. ``1.0`` keeps every token and ``1`` keeps one, so text that could mean either is refused.
"""

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Final

from tokfilter.errors import BudgetError

__all__ = ["KEEP_HELP", "Keep", "keep_from_text", "keeps_from_text", "tokens_from_keep"]

Keep = float | int
"""A ratio in (0, 1] when a float, a count of patch tokens when an int."""

KEEP_HELP: Final = "a ratio (0.5, 50%, 1.0) or a count of tokens (98, 98t)"
"""Forms of a budget as typed, for the help of options."""

_EXPECTED: Final = "keep must be a ratio in (0, 1], such as 0.5 or 50%, or a count of tokens, such as 98 or 98t"
_COUNT: Final = re.compile(r"([0-9]{1,9})\s*(t|tokens?)?", re.IGNORECASE)


def tokens_from_keep(keep: Keep, patches: int) -> int:
    """The budget k in 1..patches: a count as it is, a ratio as floor(ratio * patches).

    The floor follows the field (DynamicViT, EViT); a ratio too small for one token keeps one. Numbers of numpy count
    as float or int; bool is refused. Raises BudgetError.
    """
    number: object = keep
    if isinstance(number, bool) or not isinstance(number, Real):  # Dynamo of torch 2.8 cannot trace a union
        raise BudgetError(f"{_EXPECTED}; got {keep!r}.")
    if isinstance(number, Integral):
        if not 1 <= keep <= patches:
            raise BudgetError(
                f"keep must be a count between 1 and this model's {patches} patch tokens, got {keep}. "
                "A ratio is written as a float, such as 0.5."
            )
        return int(keep)
    if not 0.0 < keep <= 1.0:  # false for NaN too
        raise BudgetError(f"{_EXPECTED}; got {keep}.")
    # 0.29 * 100 is 28.999999999999996: a ratio that names a whole number of tokens must give that number.
    return max(1, math.floor(float(keep) * patches + 1e-9))


def keep_from_text(text: str) -> Keep:
    """Read a budget as typed. Raises BudgetError.

    Ratios have a decimal point or a percent sign: ``0.5``, ``1.0``, ``50%``, ``100%``.
    Counts are whole numbers: ``98``, ``98t``, ``98 tokens``.
    A bare ``1`` is refused: ``1.0`` or ``100%`` is every token, ``1t`` is one token.
    """
    typed = text.strip()
    count = _COUNT.fullmatch(typed)
    if count is not None:
        return _count(int(count[1]), has_unit=count[2] is not None, text=text)
    percent = typed.endswith("%")
    try:
        ratio = float(typed.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        raise BudgetError(f"{_EXPECTED}; got {text!r}.") from None
    if not 0.0 < ratio <= 1.0:
        raise BudgetError(f"{_EXPECTED}; got {text!r}.")
    return ratio


def keeps_from_text(texts: Sequence[str]) -> list[Keep]:
    """Read budgets as typed, each text one budget or several separated by commas. Raises BudgetError."""
    return [keep_from_text(part) for text in texts for part in text.split(",")]


def _count(value: int, has_unit: bool, text: str) -> int:
    if value == 0:
        raise BudgetError(f"{_EXPECTED}; got {text!r}.")
    if value == 1 and not has_unit:
        raise BudgetError(
            f"keep {text!r} is ambiguous: write 1.0 or 100% to keep every token, or 1t to keep a single token."
        )
    return value
