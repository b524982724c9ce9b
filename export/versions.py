"""Versions of the packages that write an export, for its manifest."""

from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Final

from tokfilter import __version__
from tokfilter.artifacts.extras import install_hint
from tokfilter.errors import TokfilterError

__all__ = ["package_versions"]

_PACKAGES: Final = ("torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def package_versions() -> dict[str, str]:
    """Package -> version. Raises TokfilterError for one that is not installed."""
    return {"tokfilter": __version__, **{package: _version(package) for package in _PACKAGES}}


def _version(package: str) -> str:
    """Version of the package, or of the distribution that installs it under another name, such as onnxruntime-gpu."""
    try:
        return version(package)
    except PackageNotFoundError as error:
        for name in packages_distributions().get(package, []):
            return version(name)
        raise TokfilterError(f"export needs the package {package}: {install_hint('export')}") from error
