"""Locks of flock(2): whether a process still writes a file or folder, and one writer of a folder at a time.

The number of a process says little: in a container every program has the same one, and other containers that share the
folder have the same numbers. The system releases a lock when its process ends, killed or not. Where a file system has
no such locks (folders on NFS), nothing is held, and numbers alone count.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from tokfilter.errors import TokfilterError

__all__ = ["held", "is_held", "only_writer"]

_STEP_S: Final = 0.02


@contextmanager
def held(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file or folder while the block runs. Yields False where another one holds it.

    wait_s: seconds for the other one to release it
    Raises OSError.
    """
    handle, deadline = os.open(path, os.O_RDONLY), monotonic() + wait_s
    try:
        while not (free := _locked(handle)) and monotonic() < deadline:
            sleep(_STEP_S)
        yield free
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file or folder; False for a link, and where there is nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _locked(handle)
    finally:
        os.close(handle)


@contextmanager
def only_writer(folder: Path, remedy: str, kind: type[TokfilterError], wait_s: float = 0.0) -> Iterator[None]:
    """Let one process at a time write in ``folder``, which is created, and removed where it stays empty.

    wait_s: seconds for another process to finish
    Raises ``kind`` with the remedy where another process does, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, wait_s) as free:
        if not free:
            raise kind(f"another process writes in {folder}: {remedy}")
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something
                folder.rmdir()


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
