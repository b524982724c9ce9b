"""Atomic writes of files and folders: temporary name, fsync, rename.

A temporary name is ``.NAME.PID.RANDOM.part``, and its writer holds a lock on it (``locks``), so that what a killed
process left is found and removed by the next one.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tokfilter.artifacts.limits import MAX_HOLES
from tokfilter.artifacts.locks import held, is_held
from tokfilter.errors import DataError, ExportError

__all__ = [
    "FILE_NAME",
    "atomic_path",
    "check_holes",
    "check_target",
    "existing_file",
    "inside",
    "is_file_name",
    "is_left",
    "new_folder",
    "sha256",
    "sweep_parts",
    "sync_folder",
]

FILE_NAME: Final = (
    r"^(?!\.{1,2}$)[^/\\\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,255}$"
)
"""Pattern of a file name in a manifest: no separators, no control characters or marks of direction (a terminal or page
would show another name), no lone surrogates. Also valid in JSON Schema (ECMA 262)."""

_FILE_NAME: Final = re.compile(FILE_NAME)


def is_file_name(name: str) -> bool:
    """Whether ``name`` names a file inside any folder: no path, not ``.`` or ``..``, at most 255 bytes."""
    return _FILE_NAME.match(name) is not None and not name.endswith("\n") and len(name.encode()) <= 255


def inside(folder: Path, name: str) -> Path:
    """``folder/name`` where ``name`` is a file name; every writer joins names from files with this.

    Raises DataError for what would leave the folder.
    """
    if not is_file_name(name):
        raise DataError(f"expected the name of a file inside {folder}, got {name!r}.")
    return folder / name


@contextmanager
def atomic_path(path: Path, new: bool = False) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it is renamed to ``path`` when the block ends without an error.

    new: never replace a file, also not one that another process writes meanwhile: raises FileExistsError
    A full disk, an exception or a kill leaves an existing file unchanged. Raises OSError from the writing, and
    DataError for the name of a device, a pipe or a socket, which a file would replace.
    """
    _check_no_device(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        with held(part):
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(0o666 & ~_umask())
            if new:
                _place_new(part, path)
            else:
                part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _place_new(part: Path, path: Path) -> None:
    try:
        path.hardlink_to(part)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as of USB sticks
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.replace(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside ``path`` to fill; it becomes ``path`` when the block ends without an error.

    An existing ``path`` is never changed: raises ExportError for it, and OSError from the writing.
    """
    taken = ExportError(f"{path} exists already and is not overwritten: choose another folder, or remove it.")
    if path.exists() or path.is_symlink():
        raise taken
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_parts(path)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".part", dir=path.parent))
    try:
        with held(part):
            yield part
            sync_folder(part)
            part.chmod(0o777 & ~_umask())
            try:
                part.rename(path)  # replaces an empty folder created meanwhile, fails for anything else
            except OSError as error:
                if path.exists():
                    raise taken from error
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sweep_parts(path: Path) -> None:
    """Remove what killed processes of this machine left beside ``path`` while they wrote it. Raises OSError."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.[a-z0-9_]{{8}}\.part")
    with suppress(FileNotFoundError, NotADirectoryError):  # another process may move the folder at any moment
        for part in path.parent.iterdir():
            match = pattern.fullmatch(part.name)
            if match is None or not is_left(part, int(match[1])):
                continue
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def is_left(path: Path, pid: int) -> bool:
    """Whether the process of this number that wrote ``path`` ended without removing it.

    This process's own number is then an earlier one's: what this one writes is locked.
    """
    return (pid == os.getpid() or not _is_alive(pid)) and not is_held(path)


def _is_alive(pid: int) -> bool:
    """Whether a process of this number runs; another one may have got the number since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Write everything in a folder to the disk (fsync) before it is renamed. Raises OSError."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` when it is a file. Raises DataError, which names the expected file, ``what``; also for a sparse file."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{what}: expected a file, got the folder {path}.")
    if not path.is_file():
        raise DataError(f"{what}: expected a file, but there is none at {path}.")
    if path.stat().st_size > MAX_HOLES:
        with path.open("rb") as file:
            check_holes(file.fileno(), path)
    return path


def check_holes(handle: int, path: Path) -> None:
    """Refuse an open file most of which was never written (lseek(2), SEEK_HOLE), before it is read.

    Raises DataError. Where the file system knows no holes, nothing is found.
    """
    size = os.fstat(handle).st_size
    if size <= MAX_HOLES or not hasattr(os, "SEEK_HOLE"):
        return
    begin = os.lseek(handle, 0, os.SEEK_CUR)
    holes = _hole_bytes(handle, size)
    os.lseek(handle, begin, os.SEEK_SET)
    if holes > MAX_HOLES:
        raise DataError(
            f"{path} is a sparse file: {holes} of its {size} bytes were never written (a download that was cut "
            "short?). Fetch or copy it again."
        )


def _hole_bytes(handle: int, size: int) -> int:
    """Bytes in holes; counting ends above MAX_HOLES."""
    holes = at = 0
    while at < size and holes <= MAX_HOLES:
        start = os.lseek(handle, at, os.SEEK_HOLE)
        try:
            at = os.lseek(handle, start, os.SEEK_DATA) if start < size else size
        except OSError:  # ENXIO: no data after it
            at = size
        holes += at - start
    return holes


def check_target(path: Path, folder: bool = False) -> None:
    """Check that ``path`` can be written, before long work; nothing is created.

    folder: whether it is to be a folder
    Raises DataError: a folder in place of a file or a file in place of a folder, a device or pipe, no permission.
    """
    _check_no_device(path)
    if path.exists() and path.is_dir() != folder:
        wanted, got = ("a folder", "a file") if folder else ("a file", "a folder")
        raise DataError(f"{path} is {got}: expected the name of {wanted} to write.")
    above = path if folder else path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise DataError(f"{path} cannot be written: {above} is a file, not a folder. Choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{path} cannot be written: no permission to write in {above}. Choose another place.")


def _check_no_device(path: Path) -> None:
    """Raise DataError for what is neither file nor folder, and for names in /dev and /proc.

    A file that is renamed to ``/dev/null`` takes the device's place, for every program of the machine.
    """
    with suppress(OSError):
        system = path.parent.resolve().parts[1:2] in (("dev",), ("proc",)) and not str(path).startswith("/dev/shm/")
        if system or (path.exists() and not path.is_file() and not path.is_dir()):
            raise DataError(f"{path} is a device, pipe or socket: expected the name of a file to write.")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
