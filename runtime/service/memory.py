"""Memory that glibc's allocator keeps after a request, given back to the system. Elsewhere nothing is done.

The allocator raises its threshold for blocks of their own (mmap) to the largest block that was freed, 32 MB at most:
after a few bodies and pictures of 20 MB all later ones lie in the heaps, which shrink at their ends only. With a fixed
threshold each of them is given back when it is freed, and the heaps of fewer threads have fewer gaps.
Source: mallopt(3), malloc_trim(3).
"""

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

__all__ = ["give_back_memory", "keep_heap_small"]

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE: Final = 1 << 20
"""Bytes. Smaller blocks are reused so often that a system call for each would cost more."""
_ARENAS: Final = 2


def keep_heap_small() -> None:
    """Set the allocator's thresholds for this process; call it before threads start."""
    with suppress(OSError, AttributeError):
        mallopt = _glibc().mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_back_memory() -> None:
    """Free what only reference cycles hold, and return the free pages of all heaps; takes some milliseconds.

    The traceback of a refusal is such a cycle, and holds the last part of the body, until the collector runs by itself.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        _glibc().malloc_trim(0)


def _glibc() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError("glibc is on Linux only")
    return ctypes.CDLL(None)
