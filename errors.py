"""Exceptions for callers of tokfilter. Each message gives what was expected, what was found, and the remedy.

Only the command line turns them into exit codes; it names any other exception in one sentence, as a possible defect.
"""

__all__ = [
    "BudgetError",
    "BundleError",
    "ContractError",
    "DataError",
    "EngineError",
    "ExportError",
    "MissingDependencyError",
    "RecipeError",
    "TokfilterError",
    "UnreachableBudgetError",
    "UnsupportedModelError",
    "VerificationError",
]


class TokfilterError(Exception):
    """Base class of errors that a user can correct. ``exit_code`` is the exit code of the command line."""

    exit_code = 1


class BudgetError(TokfilterError, ValueError):
    """A keep ratio or token count that is not possible."""


class UnreachableBudgetError(BudgetError):
    """A budget that costs less than the cheapest schedule of a baseline."""


class ContractError(TokfilterError, ValueError):
    """Arguments that break the TokenSelect contract (``kernels/op.py``)."""


class UnsupportedModelError(TokfilterError):
    """A model that cannot be filtered once before the first attention block, with the reason."""


class BundleError(TokfilterError):
    """A file that is not a bundle, or a damaged, foreign or newer one."""


class DataError(TokfilterError):
    """Images, labels or folders that cannot be used."""


class RecipeError(TokfilterError):
    """A training recipe with an unknown name, a wrong type or a value out of its range."""


class ExportError(TokfilterError):
    """A graph that could not be written or read."""


class EngineError(TokfilterError):
    """An engine that could not be built, loaded or run."""


class VerificationError(TokfilterError):
    """An model_file whose outputs differ from the bundle's golden tensors."""

    exit_code = 3


class MissingDependencyError(TokfilterError):
    """A package, tool or device that this command needs and this machine lacks."""

    exit_code = 4
