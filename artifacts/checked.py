"""Files of an export directory, read once: the bytes that were compared with the manifest are the bytes that are used.

A file that is hashed and then opened again by its path may have been exchanged or rewritten in between. So it is read
into memory first, and the engine gets that memory: as bytes, or as the path of a sealed memfd (memfd_create(2),
fcntl(2) F_ADD_SEALS), which nobody can write to any more. Where there is no memfd (another system, /proc not mounted,
vm.memfd_noexec = 2) the path is that of a copy in a private folder (mode 0700).
"""

import atexit
import hashlib
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import check_holes, inside
from tokfilter.artifacts.limits import MAX_FILE
from tokfilter.artifacts.manifest import NAME, Entry
from tokfilter.errors import DataError, EngineError

__all__ = [
    "HashedStream",
    "check_file",
    "checked_bytes",
    "checked_copy",
    "checked_file",
    "checked_library",
    "checked_stream",
]

_BLOCK: Final = 1 << 20
_PREFIX: Final = "tokfilter-"


def checked_bytes(directory: str | Path, entry: Entry, limit: int = MAX_FILE) -> bytes:
    """The bytes of an entry's file, without its external weights. Raises EngineError when they differ.

    limit: bytes, above which the file is refused
    """
    _check_size(directory, entry, limit)
    with _opened(directory, entry.path, entry.bytes) as file:
        content = file.read(entry.bytes + 1)
    if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _changed(directory, entry.path)
    return content


@contextmanager
def checked_file(directory: str | Path, entry: Entry) -> Iterator[Path]:
    """Yield a path to the bytes of an entry's file, for a reader that opens paths. It is valid within the block.

    A graph with external weights comes as a copy in a private folder, its weights beside it; any other file as a memfd,
    whose path has neither the file's name nor its suffix. Raises EngineError when bytes differ.
    """
    if not entry.external:
        handle = _sealed(directory, entry)
        if handle is not None:
            try:
                yield _path_of(handle)
            finally:
                os.close(handle)
            return
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        yield checked_copy(directory, entry, Path(folder))


def checked_library(directory: str | Path, entry: Entry) -> Path:
    """A path to the bytes of a shared library, for dlopen. It stays valid until the process ends.

    The dynamic loader takes a path that it has seen for the library that it has loaded, so the path of a memfd must not
    come back with other content: each library has one descriptor, which stays open.
    Raises EngineError when the bytes differ.
    """
    if entry.sha256 not in _libraries:
        handle = _sealed(directory, entry)
        if handle is not None:
            _libraries[entry.sha256] = _path_of(handle)
        else:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _libraries[entry.sha256] = checked_copy(directory, entry, folder)
    return _libraries[entry.sha256]


_libraries: Final[dict[str, Path]] = {}
"""SHA-256 -> path."""


def checked_copy(directory: str | Path, entry: Entry, folder: Path) -> Path:
    """Copy an entry's file and its external weights into ``folder``, which has none of them; returns the file's path.

    The copy is hashed while it is written. Raises EngineError when bytes differ; then no altered file is left.
    """
    for name, digest, size in _parts(entry):
        target = inside(folder, name)
        try:
            with target.open("xb") as written, checked_stream(directory, name, digest, size) as stream:
                while block := stream.read(_BLOCK):
                    written.write(block)
        except EngineError:
            target.unlink()
            raise
    return folder / entry.path


def check_file(directory: str | Path, entry: Entry) -> None:
    """Compare size and SHA-256 of an entry's file and its external weights. Raises EngineError when they differ.

    Says nothing of the bytes that a later reader gets: use the other functions for a file that is loaded.
    """
    for name, digest, size in _parts(entry):
        with checked_stream(directory, name, digest, size) as stream:
            while stream.read(_BLOCK):
                pass


@contextmanager
def checked_stream(directory: str | Path, name: str, digest: str, size: int | None = None) -> Iterator["HashedStream"]:
    """Yield the file ``name`` to read to its end; its size and SHA-256 are compared when the block ends.

    For a writer that keeps nothing of what it read when this raises EngineError.
    """
    with _opened(directory, name, size) as file:
        stream = HashedStream(file)
        yield stream
        if stream.read(1) or stream.hexdigest() != digest or size not in (None, stream.count):
            raise _changed(directory, name)


class HashedStream:
    """A file that is read once from its start, with the SHA-256 of what was read."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.count = 0
        self.size = os.fstat(file.fileno()).st_size  # of the file that is open, whatever its name is given to later

    def read(self, size: int) -> bytes:
        """The next bytes, empty at the end of the file."""
        block = self._file.read(size)
        self._digest.update(block)
        self.count += len(block)
        return block

    def hexdigest(self) -> str:
        """SHA-256 of the bytes read."""
        return self._digest.hexdigest()


def _parts(entry: Entry) -> Iterator[tuple[str, str, int | None]]:
    """Name, SHA-256 and size of the file, and of each of its external weights, whose size no manifest has."""
    yield entry.path, entry.sha256, entry.bytes
    for name, digest in entry.external.items():
        yield name, digest, None


def _check_size(directory: str | Path, entry: Entry, limit: int) -> None:
    if entry.bytes > limit:
        raise EngineError(
            f"{Path(directory) / entry.path} must have at most {limit >> 20} MiB, {NAME} says {entry.bytes >> 20}. "
            "Export again."
        )


def _opened(directory: str | Path, name: str, size: int | None) -> BufferedReader:
    """The regular file of this size, open. Raises EngineError."""
    path = inside(Path(directory), name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # the open of a FIFO must not wait
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise EngineError(f"{path} is missing, though {NAME} lists it. Export again.") from error
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
        file = os.fdopen(handle, "rb")
        try:
            check_holes(handle, path)
        except DataError as error:
            file.close()
            raise EngineError(str(error)) from error
        return file
    os.close(handle)
    if stat.S_ISREG(status.st_mode):
        raise _changed(directory, name)
    raise EngineError(f"{path} is no regular file, though {NAME} lists it. Export again.")


def _changed(directory: str | Path, name: str) -> EngineError:
    return EngineError(
        f"{Path(directory) / name} is not the file that {NAME} describes: its bytes have changed. Export again."
    )


def _sealed(directory: str | Path, entry: Entry) -> int | None:
    """Descriptor of a sealed memfd with the bytes of the file; None where this system has none.

    The file is read straight into the memfd, and hashed after the seals are set: what is hashed cannot change.
    """
    _check_size(directory, entry, MAX_FILE)
    handle = _new_memfd()
    if handle is None:
        return None
    try:
        with _opened(directory, entry.path, entry.bytes) as file:
            _fill(handle, file, entry.bytes)
        if _sealed_digest(handle, entry.bytes) != entry.sha256:
            raise _changed(directory, entry.path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _new_memfd() -> int | None:
    if sys.platform != "linux":
        return None
    with suppress(OSError):
        handle = os.memfd_create("tokfilter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if os.path.exists(_path_of(handle)):  # noqa: PTH110  (False without /proc)
            return handle
        os.close(handle)
    return None


def _path_of(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}")


def _fill(handle: int, file: BufferedReader, size: int) -> None:
    """Read ``size`` bytes of a file into a memfd. A file that has become shorter leaves zeros."""
    os.ftruncate(handle, size)
    if size:
        with mmap.mmap(handle, size) as memory:
            file.readinto(memory)


def _sealed_digest(handle: int, size: int) -> str:
    """Seal a memfd against every change; SHA-256 of its bytes."""
    if sys.platform != "linux":
        raise AssertionError("a memfd exists on Linux only")
    import fcntl

    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
    if not size:
        return hashlib.sha256().hexdigest()
    with mmap.mmap(handle, size, access=mmap.ACCESS_READ) as memory:
        return hashlib.sha256(memory).hexdigest()
