"""tokfilter: Vision Transformers that drop the least important tokens once, before the first attention block.

Public names, documented with examples in ``docs/api.md``. They load on first use: importing this package imports
neither torch nor an inference engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokfilter.errors import TokfilterError as TokfilterError
    from tokfilter.export.model import export_model as export_model
    from tokfilter.runtime.comparison.bench import bench as bench
    from tokfilter.runtime.figure import kept_tokens_figure as kept_tokens_figure
    from tokfilter.runtime.sessions import open_session as open_session
    from tokfilter.train.fit import fit as fit
    from tokfilter.train.start import load_checkpoint as load_checkpoint
    from tokfilter.vit.bundle import load_bundle as load_bundle
    from tokfilter.vit.bundle import load_model as load_model
    from tokfilter.vit.bundle import save_bundle as save_bundle
    from tokfilter.vit.mask_models import add_mask_head as add_mask_head
    from tokfilter.vit.model import FilteredViT as FilteredViT
    from tokfilter.vit.patch import patch as patch
    from tokfilter.vit.scorers import TokenFilter as TokenFilter

__version__ = "0.1.0"

_PUBLIC = {
    "FilteredViT": ("tokfilter.vit.model", "train"),
    "TokenFilter": ("tokfilter.vit.scorers", "train"),
    "TokfilterError": ("tokfilter.errors", ""),
    "add_mask_head": ("tokfilter.vit.mask_models", "train"),
    "bench": ("tokfilter.runtime.comparison.bench", "runtime"),
    "export_model": ("tokfilter.export.model", "export"),
    "fit": ("tokfilter.train.fit", "train"),
    "kept_tokens_figure": ("tokfilter.runtime.figure", "runtime"),
    "load_bundle": ("tokfilter.vit.bundle", "train"),
    "load_checkpoint": ("tokfilter.train.start", "train"),
    "load_model": ("tokfilter.vit.bundle", "train"),
    "open_session": ("tokfilter.runtime.sessions", "runtime"),
    "patch": ("tokfilter.vit.patch", "train"),
    "save_bundle": ("tokfilter.vit.bundle", "train"),
}
"""Name -> its module, and the extra that installs what the module imports."""

__all__ = [
    "FilteredViT",
    "TokenFilter",
    "TokfilterError",
    "add_mask_head",
    "bench",
    "export_model",
    "fit",
    "kept_tokens_figure",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "open_session",
    "patch",
    "save_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokfilter' has no attribute {name!r}")
    module, extra = _PUBLIC[name]
    try:
        value = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tokfilter"):
            raise
        from tokfilter.artifacts.extras import install_hint
        from tokfilter.errors import MissingDependencyError

        raise MissingDependencyError(
            f"tokfilter.{name} needs the package {error.name}, which is not installed: {install_hint(extra)}"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])
