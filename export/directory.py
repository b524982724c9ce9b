"""Write an export directory, or another folder of ours, so that a failure or a kill never loses the old one.

Files are written into a folder beside the target. No rename replaces a directory that holds files, so the old directory
is moved aside and the new one into its place. A kill between the two renames leaves the old export under
``.NAME.PID.old``; the next export moves it back.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import is_alive, sweep_parts, sync_folder
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.artifacts.signature import SIGNATURE
from tokfilter.errors import ExportError

__all__ = ["FolderKind", "engines_folder", "new_directory", "replaced_folder"]

_ENGINES: Final = "engines"


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is written as a whole.

    name: in messages
    marker: the file that each such folder has; a folder with other files and without it is never replaced
    listed: names of the files that belong to an old folder; others in it (measurements, notes) are copied
    """

    name: str
    marker: str
    listed: Callable[[Path], set[str]]


def new_directory(target: Path) -> AbstractContextManager[Path]:
    """``replaced_folder`` for an export directory."""
    return replaced_folder(target, _EXPORTS)


@contextmanager
def engines_folder(directory: Path) -> Iterator[Path]:
    """Yield a folder in an export directory to build engines in; it is removed at the end.

    It is on the file system of the graphs, so that each finished file is moved in one step. Those of killed builds are
    removed first. Raises OSError.
    """
    sweep_parts(directory / _ENGINES)
    with tempfile.TemporaryDirectory(prefix=f".{_ENGINES}.{os.getpid()}.", suffix=".part", dir=directory) as name:
        yield Path(name)


@contextmanager
def replaced_folder(target: Path, kind: FolderKind) -> Iterator[Path]:
    """Yield a folder to write to; it becomes ``target`` when the block ends without an error.

    Raises ExportError when ``target`` cannot be a folder of this kind.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() would follow a link, which is done below)
    if target.is_symlink():
        target = target.resolve()
    staging = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_up_killed(target)
        _check_replaceable(target, kind)
        staging.mkdir()
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}. Choose another -o.") from error
    try:
        yield staging
        _copy_unlisted(target, staging, kind)
        sync_folder(staging)
        _swap(staging, target)
    except OSError as error:
        raise ExportError(
            f"writing {target} failed: {error.strerror or error}. The old {kind.name} is unchanged."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(target: Path, kind: FolderKind) -> None:
    if target.is_file():
        raise ExportError(f"-o must be a directory, but {target} is a file. Choose another -o.")
    if target.is_dir() and any(target.iterdir()) and not (target / kind.marker).is_file():
        raise ExportError(
            f"{target} holds files and no {kind.marker}, so it is no {kind.name} and is not replaced. "
            "Choose another -o."
        )


def _listed(directory: Path) -> set[str]:
    files = load_manifest(directory).files
    return {MANIFEST, SIGNATURE, *(name for entry in files for name in (entry.path, *entry.external))}


_EXPORTS: Final = FolderKind("export", MANIFEST, _listed)


def _copy_unlisted(target: Path, staging: Path, kind: FolderKind) -> None:
    if not (target / kind.marker).is_file():
        return
    listed = kind.listed(target)
    for item in target.iterdir():
        if item.name in listed or (staging / item.name).exists():
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.copytree(item, staging / item.name, symlinks=True)
        else:
            shutil.copy2(item, staging / item.name, follow_symlinks=False)


def _swap(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; an old export there is moved aside and then removed."""
    if not target.exists():
        staging.rename(target)
        return
    aside = target.parent / f".{target.name}.{os.getpid()}.old"
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _clean_up_killed(target: Path) -> None:
    """Remove the folders of killed exports and builds, and move back an old export that had been moved aside."""
    sweep_parts(target / _ENGINES)
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,9}})\.(part|old)")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is None or is_alive(int(match[1])):
            continue
        if match[2] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)
