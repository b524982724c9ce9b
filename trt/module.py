"""TensorRT's and TensorRT-RTX's Python modules, which have the same interface, imported on first use."""

from importlib import import_module
from typing import Any, Final, Literal

from tokfilter.artifacts.extras import install_hint
from tokfilter.errors import MissingDependencyError

__all__ = ["EngineKind", "name_and_version", "tensorrt_module"]

EngineKind = Literal["tensorrt", "tensorrt-rtx"]

_PACKAGES: Final[dict[str, tuple[str, str]]] = {
    "tensorrt": ("tensorrt", f"{install_hint('trt')} (JetPack: apt install python3-libnvinfer)"),
    "tensorrt-rtx": ("tensorrt_rtx", install_hint("rtx")),
}
"""Engine kind -> Python module, and the command that installs it."""


def tensorrt_module(kind: str) -> Any:
    """The Python module for an ``EngineKind``. Raises MissingDependencyError with the command that installs it."""
    name, remedy = _PACKAGES[kind]
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"the package {name} cannot be imported ({error}): {remedy}.") from error
    if not hasattr(module, "Runtime"):  # type stubs install a folder of this name without code
        raise MissingDependencyError(f"the package {name} is installed as type stubs only: {remedy}.")
    return module


def name_and_version(module: Any) -> str:
    """Such as "TensorRT 10.13.0", for messages."""
    rtx = getattr(module, "__name__", "") == _PACKAGES["tensorrt-rtx"][0]
    return f"{'TensorRT-RTX' if rtx else 'TensorRT'} {module.__version__}"
