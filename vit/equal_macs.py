"""Budgets of equal cost: equal ``keep`` of two reducers is not equal work, equal multiply-accumulates are."""

from bisect import bisect_left

from tokfilter.errors import UnreachableBudgetError
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["tokens_at_macs"]


def tokens_at_macs(model: FilteredViT, target: int) -> int:
    """The smallest budget at which a model costs at least ``target`` multiply-accumulates for one image.

    Every token, where no smaller budget costs as much. The cost rises with the budget, so that it is counted at a few
    budgets only; the counts are those of ``macs``. Raises UnreachableBudgetError where the smallest budget costs more.
    """
    smallest, largest = model.drop.smallest, model.num_patches
    if macs(model, smallest) > target:
        raise UnreachableBudgetError(
            f"{model.drop.name} costs at least {macs(model, smallest):,} multiply-accumulates, at {smallest} of "
            f"{largest} tokens, and {target:,} are asked for: choose a larger budget, or stages at earlier blocks."
        )
    budgets = range(smallest, largest)  # at every token nothing is selected, which may cost less than one token fewer
    found = bisect_left(budgets, target, key=lambda k: macs(model, k))
    return budgets[found] if found < len(budgets) else largest
