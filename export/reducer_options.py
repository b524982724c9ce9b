"""What an export can do for a model that reduces inside its blocks, checked before anything is traced."""

from tokfilter.artifacts.manifest import Range
from tokfilter.errors import BudgetError, ExportError
from tokfilter.export.options import ExportOptions
from tokfilter.export.precision import LOW_TYPES
from tokfilter.vit.model import FilteredViT

__all__ = ["check_reducer_options", "limits_of"]


def limits_of(model: FilteredViT) -> Range | None:
    """Smallest, usual and largest budget of graphs in the slots form; None where that is every budget."""
    reducer = model.drop
    low, high = reducer.smallest, reducer.largest
    return None if (low, high) == (1, model.num_patches) else (low, min(max(model.keep_tokens, low), high), high)


def check_reducer_options(model: FilteredViT, options: ExportOptions) -> None:
    """Refuse budgets that the reducer does not have, and forms that only a filter has.

    Raises BudgetError, ExportError.
    """
    reducer, patches = model.drop, model.num_patches
    options.budget_profile(patches, model.keep_tokens, limits_of(model))
    for k in options.budgets(patches):
        if not reducer.smallest <= k <= reducer.largest:
            raise BudgetError(
                f"graphs and engines of {reducer.name} have budgets of {reducer.smallest} to {reducer.largest} of this "
                f"model's {patches} patch tokens, got {k}. Every token is the full model, which is exported too."
            )
    if reducer.name == "filter":
        return
    refused = [precision for precision in options.precisions if precision not in ("fp32", *LOW_TYPES)]
    for name, wanted in ((f"--precision {', '.join(refused)}", refused), ("--cuda", options.cuda)):
        if wanted:
            raise ExportError(
                f"{name} is made for the token filter, and this model reduces tokens by {reducer.name}: export it in "
                "fp32, fp16 or bf16, without --cuda."
            )
    if options.tensorrt8:
        raise ExportError(
            f"graphs for TensorRT 8 have one selection of tokens, {reducer.name} has several: use TensorRT 10 or later."
        )
