"""tokfilter: Vision Transformers made fast where they are deployed.

Importing this package imports neither torch nor an inference engine; the public names load on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "FilteredViT": "tokfilter.vit.model",
    "TokenFilter": "tokfilter.vit.model",
    "TokfilterError": "tokfilter.errors",
    "load_bundle": "tokfilter.vit.bundle",
    "save_bundle": "tokfilter.vit.bundle",
}

__all__ = ["FilteredViT", "TokenFilter", "TokfilterError", "load_bundle", "save_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokfilter' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
