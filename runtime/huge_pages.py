"""Huge pages for weights: at batch 1 an engine reads all weights for each image, which small pages make slower.

Linux gives memory 2 MiB pages on request (``transparent_hugepage`` set to madvise, the usual default). ONNX Runtime
does not request them, so it is done here, for the memory allocated while a model is loaded. Without huge pages, or on
another system, nothing happens: no result depends on it.

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
    """Request huge pages for the memory that this process allocates within the block and keeps."""
    if not wanted or sys.platform != "linux":
        yield
        return
    before = writable_memory()
    yield
    for start, end in new_parts(before, writable_memory()):
        _advise(start, end)


def writable_memory(maps: Path = Path("/proc/self/maps")) -> list[Range]:
    """Private, writable, anonymous memory of this process, ascending; empty where /proc cannot be read."""
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
    """The parts of ``after`` outside ``before``, cut to whole huge pages."""
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
    """Request huge pages for later allocations, and collapse the pages that exist into huge ones at once."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if madvise(start, end - start, _HUGEPAGE) == 0:
        madvise(start, end - start, _COLLAPSE)  # fails before Linux 6.1, which collapses them in the background
