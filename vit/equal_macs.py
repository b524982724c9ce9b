"""Budgets of equal cost: equal ``keep`` of two reducers is not equal work, equal multiply-accumulates are."""

from bisect import bisect_left
from collections.abc import Callable

from tokfilter.errors import UnreachableBudgetError
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["tokens_at_macs"]


def tokens_at_macs(model: FilteredViT, target: int, count: Callable[[FilteredViT, int], int] = macs) -> int:
    """The smallest budget at which a model costs at least ``target`` multiply-accumulates for one image.

    Every token, where no smaller budget costs as much. The cost rises with the budget, so that it is counted at a few
    budgets only. Raises UnreachableBudgetError where the smallest budget costs more.
    count: ``macs``, or a version of it that remembers its counts
    """
    smallest, largest = model.drop.smallest, model.num_patches
    if count(model, smallest) > target:
        raise UnreachableBudgetError(
            f"{model.drop.name} costs at least {count(model, smallest):,} multiply-accumulates, at {smallest} of "
            f"{largest} tokens, and {target:,} are asked for: choose a larger budget, or stages at earlier blocks."
        )
    budgets = range(smallest, largest)  # at every token nothing is selected, which may cost less than one token fewer
    found = bisect_left(budgets, target, key=lambda k: count(model, k))
    return budgets[found] if found < len(budgets) else largest
