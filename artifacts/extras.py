"""Optional dependencies of this package: its extras, read from its own metadata, and the commands that install them."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

__all__ = ["extra_of_module", "extras", "install_hint"]

_NAME: Final = "tokfilter"
_REQUIREMENT: Final = re.compile(
    r"(?P<package>[\w.-]+)(?:\[(?P<nested>[\w,.-]+)\])?.*;.*\bextra\s*==\s*['\"](?P<extra>[\w-]+)['\"]"
)

_PACKAGES: Final = {
    "PIL": "pillow",
    "google": "tritonclient",
    "mlperf_loadgen": "mlcommons-loadgen",
    "onnx_ir": "onnx-ir",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
}
"""Module -> the package that installs it, where their names differ."""


@cache
def extras() -> Mapping[str, frozenset[str]]:
    """Extra -> its packages, with those of the extras that it includes. Empty where tokfilter is not installed."""
    try:
        matches = [match for text in requires(_NAME) or () if (match := _REQUIREMENT.match(text))]
    except PackageNotFoundError:
        return {}
    own: dict[str, set[str]] = {}
    nested: dict[str, set[str]] = {}
    for match in matches:
        if match["package"] == _NAME:
            nested.setdefault(match["extra"], set()).update(match["nested"].split(","))
        else:
            own.setdefault(match["extra"], set()).add(match["package"])

    def packages(extra: str) -> frozenset[str]:
        return frozenset(own.get(extra, ())).union(*(packages(name) for name in nested.get(extra, ())))

    return {extra: packages(extra) for extra in {**own, **nested}}


def install_hint(extra: str) -> str:
    """The command that installs an extra, for error messages."""
    return f"pip install '{_NAME}[{extra}]'"


def extra_of_module(module: str, needed: str | None = None) -> str | None:
    """The smallest extra that installs a module; None where no extra does.

    needed: extras, with commas, of all that a command needs: preferred, where they have the module
    """
    package = _PACKAGES.get(module, module)
    if needed and any(package in extras().get(extra, ()) for extra in needed.split(",")):
        return needed
    found = [extra for extra, packages in extras().items() if package in packages]
    return min(found, key=lambda extra: len(extras()[extra]), default=None)
