"""Write an export directory so that a failure or a kill never loses the old one.

Files are written into a folder beside the target. No rename replaces a directory that holds files, so the old directory
is moved aside and the new one into its place. A kill between the two renames leaves the old export under
``.NAME.PID.old``; the next export moves it back.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokfilter.artifacts.files import sync_folder
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import ExportError

__all__ = ["new_directory"]


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a folder to write an export to; it becomes ``target`` when the block ends without an error.

    Files of an old export that its manifest does not list (measurements, notes) are copied.
    Raises ExportError when ``target`` cannot be an export directory.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() would follow a link, which is done below)
    if target.is_symlink():
        target = target.resolve()
    staging = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_up_killed(target)
        _check_replaceable(target)
        staging.mkdir()
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}. Choose another -o.") from error
    try:
        yield staging
        _copy_unlisted(target, staging)
        sync_folder(staging)
        _swap(staging, target)
    except OSError as error:
        raise ExportError(
            f"writing {target} failed: {error.strerror or error}. The old export is unchanged."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise ExportError(f"-o must be a directory, but {target} is a file. Choose another -o.")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ExportError(
            f"{target} holds files and no {MANIFEST}, so it is no export and is not replaced. Choose another -o."
        )


def _copy_unlisted(target: Path, staging: Path) -> None:
    if not (target / MANIFEST).is_file():
        return
    files = load_manifest(target).files
    listed = {MANIFEST, *(entry.path for entry in files), *(name for entry in files for name in entry.external)}
    for item in target.iterdir():
        if item.name in listed or (staging / item.name).exists():
            continue
        if item.is_dir():
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
    """Remove the folders of killed exports, and move back an old export that one of them had moved aside."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(part|old)")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is None or _alive(int(match[1])):
            continue
        if match[2] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
