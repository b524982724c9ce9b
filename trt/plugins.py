"""tokfilter's plugin library in one of TensorRT's plugin registries."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokfilter.errors import EngineError
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.trt.log import error_log, logged_errors
from tokfilter.trt.module import name_and_version

__all__ = ["load_plugins", "plugin_is_registered"]


def plugin_is_registered(module: Any, registry: Any) -> bool:
    """Whether TokenSelect is in the registry. Clears the log: TensorRT logs a plugin that it does not find."""
    found = registry.get_creator(NAME, VERSION, DOMAIN) is not None
    error_log(module).errors.clear()
    return found


def load_plugins(module: Any, registry: Any, libraries: Iterable[Path]) -> None:
    """Load libraries with ``getCreators``, unless TokenSelect is registered already: loading it twice fails.

    Raises EngineError.
    """
    if plugin_is_registered(module, registry):
        return
    for library in libraries:
        if registry.load_library(str(library)) is None:
            raise EngineError(
                f"{name_and_version(module)} cannot load the plugin library {library}: {logged_errors(module)}. "
                "Build it for this machine: `tokfilter plugin build`, then `tokfilter engine`."
            )
