"""TensorRT's and TensorRT-RTX's Python modules, which have the same interface, imported on first use."""

import re
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


_OTHER_PYTHON: Final = re.compile(r"module was compiled for Python ([\d.]+\d)")
_NO_LIBRARY: Final = re.compile(r"(lib[\w.+-]+\.so[\d.]*): cannot open shared object file")


def tensorrt_module(kind: str) -> Any:
    """The Python module for an ``EngineKind``. Raises MissingDependencyError with the command that installs it."""
    name, remedy = _PACKAGES[kind]
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"the package {name} cannot be imported ({error}): {_import_remedy(str(error), remedy)}."
        ) from error
    if not hasattr(module, "Runtime"):  # type stubs install a folder of this name without code
        raise MissingDependencyError(f"the package {name} is installed as type stubs only: {remedy}.")
    return module


def _import_remedy(message: str, default: str) -> str:
    """What helps against an error of the import. Each of these was met with TensorRT 8.6.0."""
    built_for = _OTHER_PYTHON.search(message)
    if built_for is not None:
        return f"run tokfilter with Python {built_for[1]}, for which this TensorRT was built (8.6: 3.10 or older)"
    library = _NO_LIBRARY.search(message)
    if library is None:
        return default
    if library[1].startswith(("libcublas", "libcudnn")):
        return (
            f"{library[1]} belongs to CUDA and is needed by NVIDIA's own plugin library, which TensorRT 8.6's module "
            "loads (tokfilter's plugin needs neither cuBLAS nor cuDNN). Install CUDA 12's cuBLAS and cuDNN 8, such as "
            "pip install nvidia-cublas-cu12 'nvidia-cudnn-cu12<9', and put their folders into LD_LIBRARY_PATH"
        )
    return f"put the folder of {library[1]} into LD_LIBRARY_PATH, or {default}"


def name_and_version(module: Any) -> str:
    """Such as "TensorRT 10.13.0", for messages."""
    rtx = getattr(module, "__name__", "") == _PACKAGES["tensorrt-rtx"][0]
    return f"{'TensorRT-RTX' if rtx else 'TensorRT'} {module.__version__}"
