"""Locks of flock(2): whether a process still writes a file or folder, and one writer of a folder at a time.

The number of a process says little: in a container every program has the same one, and other containers that share the
folder have the same numbers. A lock belongs to an open file, which forked children (a DataLoader's workers) share: they
close theirs at once, so that the system releases a lock when the process that took it ends, killed or not. Where a file
system has no such locks (folders on NFS), nothing is held, and numbers alone count.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from tokfilter.errors import TokfilterError

__all__ = ["held", "is_held", "only_writer"]

_STEP_S: Final = 0.02

_TRIES: Final = 100
"""To make a folder and lock it, while others remove it: each failure needs one within microseconds."""

_OPEN: Final[set[int]] = set()
"""Files opened for their locks; a forked child closes them, which releases no lock of its parent."""


@contextmanager
def held(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file or folder while the block runs. Yields False where another one holds it.

    wait_s: seconds for the other one to release it
    Raises OSError: FileNotFoundError also where another process removed or replaced it before it was locked.
    """
    deadline = monotonic() + wait_s
    with _opened(path) as handle:
        while not (free := _locked(handle)) and monotonic() < deadline:
            sleep(_STEP_S)
        if free and not os.path.samestat(os.fstat(handle), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "replaced by another process", str(path))
        yield free


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file or folder; False for a link, and where there is nothing."""
    with suppress(OSError), _opened(path, os.O_NOFOLLOW | os.O_NONBLOCK) as handle:
        return not _locked(handle)
    return False


@contextmanager
def only_writer(folder: Path, remedy: str, kind: type[TokfilterError], wait_s: float = 0.0) -> Iterator[None]:
    """Let one process at a time write in ``folder``, which is created, and removed where it stays empty.

    wait_s: seconds for another process to finish
    Raises ``kind`` with the remedy where another process does, and OSError.
    """
    with ExitStack() as lock:
        if not _made_and_held(folder, wait_s, lock):
            raise kind(f"another process writes in {folder}: {remedy}")
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _made_and_held(folder: Path, wait_s: float, lock: ExitStack) -> bool:
    """Make a folder and hold its lock; again where another writer, which found it empty, removes it meanwhile."""
    deadline, tries = monotonic() + wait_s, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return lock.enter_context(held(folder, deadline - monotonic()))
        except (FileExistsError, FileNotFoundError):  # removed after mkdir found it, or after it was opened
            tries += 1
            if tries == _TRIES:  # something else is in the way
                raise


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    handle, process = os.open(path, os.O_RDONLY | flags), os.getpid()
    _OPEN.add(handle)
    try:
        yield handle
    finally:
        if os.getpid() == process:  # in a forked child the number may be another file's by now
            _OPEN.remove(handle)
            os.close(handle)


def _close_in_child() -> None:
    while _OPEN:
        os.close(_OPEN.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _locked(handle: int) -> bool:
    """Take the lock until the file is closed. False where another open file has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # no such locks here
        return True
    return True
