"""Huge pages for weights: at batch 1 an engine reads all of them for each image, and small pages make that slower.

Linux backs memory with 2 MiB pages where it is asked to (``transparent_hugepage`` set to madvise, the usual default).
ONNX Runtime does not ask, so it is asked here, for the memory that an engine took while it was loaded. Where the kernel
knows no huge pages, or is not Linux, nothing happens: it is advice, and no result depends on it.

Source: madvise(2), MADV_HUGEPAGE (Linux 2.6.38) and MADV_COLLAPSE (Linux 6.1).
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["advised_huge_pages", "new_parts", "writable_memory"]

Range = tuple[int, int]
"""First address, and the first one after."""

_PAGE: Final = 2 << 20
_HUGEPAGE: Final = 14
_COLLAPSE: Final = 25


@contextmanager
def advised_huge_pages(wanted: bool = True) -> Iterator[None]:
    """Ask for huge pages behind what this process allocates within the block and keeps."""
    if not wanted or sys.platform != "linux":
        yield
        return
    before = writable_memory()
    yield
    for start, end in new_parts(before, writable_memory()):
        _advise(start, end)


def writable_memory(maps: Path = Path("/proc/self/maps")) -> list[Range]:
    """Private, writable memory of this process that no file stands behind, ascending; empty where it is not told."""
    try:
        lines = maps.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            first, _, last = addresses.partition("-")
            found.append((int(first, 16), int(last, 16)))
    return found


def new_parts(before: Sequence[Range], after: Sequence[Range]) -> list[Range]:
    """What of ``after`` lies outside ``before``, cut to whole huge pages."""
    found = []
    for start, end in after:
        for old_start, old_end in before:
            if old_start < end and old_end > start:
                found.append((start, old_start))
                start = old_end
        found.append((start, end))
    rounded = [(-(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE) for start, end in found]
    return [(start, end) for start, end in rounded if start < end]


def _advise(start: int, end: int) -> None:
    """Ask for huge pages from now on, and to have what is there already gathered into such at once."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if madvise(start, end - start, _HUGEPAGE) == 0:
        madvise(start, end - start, _COLLAPSE)  # kernels before 6.1 refuse, and gather in the background
