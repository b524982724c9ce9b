"""Write an export directory, or another folder of ours, so that a failure or a kill never loses the old one.

Files are written into a folder beside the target. No rename replaces a directory that holds files, so the old directory
is moved aside and the new one into its place. A kill between the two renames leaves the old export under
``.NAME.PID.RANDOM.old``; the next export moves it back.

Where several processes write the same target, each is whole and the last one stays. What is moved aside is looked at
before it is removed: the target may have become another folder, or a link, since the export began. Both
renames are made under the old folder's lock: a command that changes its manifest never writes it into the new one.
"""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from tokfilter.artifacts.files import is_left, sweep_parts, sync_folder
from tokfilter.artifacts.locks import held
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.artifacts.signature import SIGNATURE
from tokfilter.errors import ExportError, TokfilterError

__all__ = ["FolderKind", "engines_folder", "new_directory", "replaced_folder"]

_ENGINES: Final = "engines"

_WAIT_S: Final = 10.0
"""For the lock of an old folder: a change of its manifest takes milliseconds."""

_ONE_AT_A_TIME: Final = Lock()
"""For threads, which have the same process number in their folders' names."""


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
    with (
        tempfile.TemporaryDirectory(prefix=f".{_ENGINES}.{os.getpid()}.", suffix=".part", dir=directory) as name,
        held(Path(name)),
    ):
        yield Path(name)


@contextmanager
def replaced_folder(target: Path, kind: FolderKind) -> Iterator[Path]:
    """Yield a folder to write to; it becomes ``target`` when the block ends without an error.

    Raises ExportError when ``target`` cannot be a folder of this kind.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() would follow a link, which is done below)
    if target.is_symlink():
        target = target.resolve()
    staging = _beside(target, "part")
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _ONE_AT_A_TIME:
                _clean_up_killed(target, kind)
                with _unless_replaced(target):
                    _check_replaceable(target, target, kind)
                    _old_files(target, kind)  # what cannot be read is refused now, not after minutes of work
                staging.mkdir()
                stack.callback(shutil.rmtree, staging, ignore_errors=True)
                stack.enter_context(held(staging))
        except OSError as error:
            raise ExportError(f"{target} cannot be written: {error.strerror or error}. Choose another -o.") from error
        try:
            yield staging
            taken = _take_along(target, staging, kind)
            sync_folder(staging)
            with _ONE_AT_A_TIME:
                _swap(staging, target, kind, taken)
        except OSError as error:
            raise ExportError(
                f"writing {target} failed: {error.strerror or error}. The old {kind.name} is unchanged."
            ) from error


def _beside(target: Path, suffix: str) -> Path:
    """A new name beside the target."""
    return target.parent / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.{suffix}"


def _check_replaceable(folder: Path, target: Path, kind: FolderKind) -> None:
    """Raise ExportError where ``folder``, which is or was at ``target``, is no folder of this kind."""
    if folder.is_symlink():
        raise ExportError(f"{target} has become a link meanwhile and is not replaced. Choose another -o.")
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"-o must be a directory, but {target} is a file. Choose another -o.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / kind.marker).is_file():
        raise ExportError(
            f"{target} holds files and no {kind.marker}, so it is no {kind.name} and is not replaced. "
            "Choose another -o."
        )


def _listed(directory: Path) -> set[str]:
    files = load_manifest(directory).files
    return {MANIFEST, SIGNATURE, *(name for entry in files for name in (entry.path, *entry.external))}


_EXPORTS: Final = FolderKind("export", MANIFEST, _listed)


def _take_along(folder: Path, staging: Path, kind: FolderKind) -> tuple[int, int] | None:
    """Copy what does not belong to an old folder. Returns which one it was: another process may replace it then."""
    with _unless_replaced(folder) as there:
        listed = _old_files(folder, kind)
        if listed is not None:
            _copy_unlisted(folder, listed, staging)
    return there


def _old_files(folder: Path, kind: FolderKind) -> set[str] | None:
    """Names of the files that belong to an old folder; None without one. Raises what ``kind.listed`` raises."""
    return kind.listed(folder) if (folder / kind.marker).is_file() else None


@contextmanager
def _unless_replaced(folder: Path) -> Iterator[tuple[int, int] | None]:
    """Pass over errors in the block where another process replaces the folder meanwhile. Yields which one it was."""
    there = _identity(folder)
    try:
        yield there
    except (OSError, TokfilterError):
        if _identity(folder) == there:
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _copy_unlisted(folder: Path, listed: set[str], staging: Path) -> None:
    for item in folder.iterdir():
        copy = staging / item.name
        if item.name in listed or copy.exists() or copy.is_symlink():
            continue
        try:
            if item.is_dir() and not item.is_symlink():
                shutil.copytree(item, copy, symlinks=True)
            else:
                shutil.copy2(item, copy, follow_symlinks=False)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise


def _swap(staging: Path, target: Path, kind: FolderKind, taken: tuple[int, int] | None) -> None:
    """Rename ``staging`` to ``target``; an old folder of its kind there is moved aside and then removed.

    taken: the folder whose other files were taken along; those of one that has replaced it are, too
    Another process may do the same at any moment. Raises ExportError where something else is there, which stays.
    """
    placed = _renamed(staging, target)
    while not placed:
        aside = _beside(target, "old")
        with ExitStack() as lock:
            try:
                _hold(target, kind, lock)
                if _identity(target) != taken and not target.is_symlink():  # replaced before it was held
                    taken = _take_along(target, staging, kind)
                target.rename(aside)
            except FileNotFoundError:  # another process has just moved it
                placed = _renamed(staging, target)
                continue
            try:
                _check_replaceable(aside, target, kind)
                if _identity(aside) != taken:
                    _take_along(aside, staging, kind)
                placed = _renamed(staging, target)
            except BaseException as error:
                with suppress(OSError):
                    aside.rename(target)
                    raise
                raise ExportError(f"writing {target} failed ({error}), and what was there is now {aside}.") from error
        shutil.rmtree(aside, ignore_errors=True)


def _hold(target: Path, kind: FolderKind, lock: ExitStack) -> None:
    """Hold the lock of an old folder, if it is one. Raises ExportError where another process keeps it, and OSError."""
    if target.is_dir() and not target.is_symlink() and not lock.enter_context(held(target, _WAIT_S)):
        raise ExportError(
            f"another process writes in {target}: run this command again when it has finished. The old {kind.name} is "
            "unchanged."
        )


def _renamed(staging: Path, target: Path) -> bool:
    """Rename a folder; False where something is there already. An empty folder is replaced."""
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _clean_up_killed(target: Path, kind: FolderKind) -> None:
    """Remove the folders of killed exports and builds, and move back an old export that had been moved aside."""
    sweep_parts(target / _ENGINES)
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,9}})(?:\.[0-9a-f]{{8}})?\.(part|old)")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is None or not is_left(path, int(match[1])):
            continue
        if match[2] == "old" and not target.exists():
            path.rename(target)
        elif match[2] == "part" or (path / kind.marker).is_file():
            shutil.rmtree(path, ignore_errors=True)
