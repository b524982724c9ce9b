"""The files of the running tokfilter package, installed or editable: the same list for both."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

import tokfilter
from tokfilter.errors import MissingDependencyError

__all__ = ["Package", "native_sources", "own_package"]

_NAME: Final = "tokfilter"
_ROOT: Final = Path(tokfilter.__file__).resolve().parent
_NATIVE: Final = ("kernels/CMakeLists.txt", "kernels/csrc", "runtime/cpp")
"""Sources of the plugin and the C++ library, relative to the package."""


@dataclass(frozen=True)
class Package:
    """Contents of a wheel of this tokfilter.

    files: path inside the wheel -> file on disk, without generated ones
    metadata, entry_points, licence: texts of its dist-info folder
    """

    version: str
    files: dict[str, Path]
    metadata: str
    entry_points: str
    licence: str


def own_package() -> Package:
    """The running package. Raises MissingDependencyError where it is not installed."""
    found = [d for d in distributions(name=_NAME) if d.read_text("METADATA")]
    if not found:
        raise MissingDependencyError(
            "an edge bundle includes tokfilter, which must be installed for that: pip install it, or run make install."
        )
    about = found[0]
    installed = dict(_installed(about))
    files = installed or dict(_editable())
    return Package(
        version=about.version,
        files=files,
        metadata=about.read_text("METADATA") or "",
        entry_points=about.read_text("entry_points.txt") or "",
        licence=about.read_text("licenses/LICENSE") or (_ROOT / "LICENSE").read_text(encoding="utf-8"),
    )


def native_sources() -> dict[str, Path]:
    """Sources of the plugin and the C++ library: path in the repository -> file on disk."""
    found: dict[str, Path] = {}
    for name in _NATIVE:
        path = _ROOT / name
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file() and _ships(file):
                found[file.relative_to(_ROOT).as_posix()] = file
    return found


def _installed(about: Distribution) -> Iterator[tuple[str, Path]]:
    """The files that pip recorded; an editable install records none of the package."""
    for file in about.files or ():
        if file.parts[0] == _NAME and _ships(Path(file)):
            yield file.as_posix(), Path(str(about.locate_file(file)))


def _editable() -> Iterator[tuple[str, Path]]:
    """The files that setuptools puts into a wheel, by the same settings."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # the extra dev installs it
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in settings["packages"]:
        folder = _ROOT.joinpath(*package.split(".")[1:])
        patterns = ["*.py", *settings["package-data"].get(package, ())]
        for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
            if file.is_file() and _ships(file):
                yield f"{_NAME}/{file.relative_to(_ROOT).as_posix()}", file


def _ships(file: Path) -> bool:
    return file.suffix != ".pyc" and "__pycache__" not in file.parts
