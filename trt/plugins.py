"""tokfilter's plugin library in one of TensorRT's plugin registries."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokfilter.errors import EngineError
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.trt.log import error_log, logged_errors
from tokfilter.trt.module import name_and_version

__all__ = ["load_plugins", "plugin_is_registered"]


def plugin_is_registered(module: Any, registry: Any) -> bool:
    """Whether TokenSelect is in the registry. Clears the log: TensorRT logs a plugin that it does not find."""
    # TensorRT 8.6 knows creators of V2 plugins only; a later version finds both kinds with get_creator.
    find = getattr(registry, "get_creator", None) or registry.get_plugin_creator
    found = find(NAME, VERSION, DOMAIN) is not None
    logged_errors(module)
    return found


def load_plugins(module: Any, registry: Any, libraries: Mapping[str, Path]) -> None:
    """Load libraries, unless TokenSelect is registered already: loading it twice fails.

    libraries: name in messages -> path; they export ``getCreators``, for TensorRT 8.6 ``getPluginCreators``
    Raises EngineError.
    """
    if plugin_is_registered(module, registry):
        return
    for name, library in libraries.items():
        if registry.load_library(str(library)) is None:
            raise EngineError(
                f"{name_and_version(module)} cannot load the plugin library {name}: {_reason(module, library)}. "
                "Build it for this machine: `tokfilter plugin build`, then `tokfilter engine`."
            )


def _reason(module: Any, library: Path) -> str:
    """TensorRT's reason, else the system's: a registry logs nothing before the first builder or runtime started."""
    if error_log(module).errors:
        return logged_errors(module)
    try:
        opened = ctypes.CDLL(str(library.absolute()))
    except OSError as error:
        return str(error)
    entry = "getPluginCreators" if module.__version__.startswith("8.") else "getCreators"
    if not hasattr(opened, entry):
        return f"it has no function {entry}"
    return "it has no plugin for this version of TensorRT (standard error may name the version that it is built for)"
