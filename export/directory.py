"""An export directory that is either the old one or the new one, whatever happens while it is written.

Files are written into a folder beside the target. One system call then swaps the two: Linux's renameat2 with
RENAME_EXCHANGE (man 2 renameat2). Where the kernel or the file system lacks it, the old directory is moved aside first;
a kill between those two moves leaves the old export under ``.NAME.PID.old``, from where the next export puts it back.
"""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import sync_folder
from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import ExportError

__all__ = ["new_directory"]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a folder to write an export to; it becomes ``target`` when the block ends without an error.

    Files of an old export that its manifest does not list (measurements, notes) are taken along.
    Raises ExportError when ``target`` cannot be an export directory.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (a link stays a link until it is looked at below)
    if target.is_symlink():
        target = target.resolve()
    staging = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_after_killed(target)
        _check_replaceable(target)
        staging.mkdir()
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}. Choose another -o.") from error
    try:
        yield staging
        _carry_unlisted(target, staging)
        sync_folder(staging)
        _swap(staging, target)
    except OSError as error:
        raise ExportError(
            f"writing {target} failed: {error.strerror or error}. What stood there before is unchanged."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise ExportError(f"-o wants a directory, but {target} is a file.")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ExportError(
            f"{target} holds files and no {MANIFEST}, so it is no export that may be replaced. Choose another -o."
        )


def _carry_unlisted(target: Path, staging: Path) -> None:
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
    """Put ``staging`` in the place of ``target``, and what was there in the place of ``staging``."""
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return
    aside = target.parent / f".{target.name}.{os.getpid()}.old"
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step. False where kernel, C library or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _clear_after_killed(target: Path) -> None:
    """Remove what exports that were killed left behind, and put back what one of them had moved aside."""
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
