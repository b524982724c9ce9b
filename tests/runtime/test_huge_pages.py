"""Huge pages: the memory that they are requested for, and results that do not depend on them."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.artifacts.golden import golden_of
from tokfilter.runtime.huge_pages import advised_huge_pages, new_parts, writable_memory
from tokfilter.runtime.sessions import SessionOptions, open_session

PAGE = 2 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="huge pages are requested on Linux only")

MAPS = """\
55d101db3000-55d101eb3000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000600000-7f0000a00000 r--p 00000000 00:00 0
7f0000c00000-7f0001000000 rw-p 00000000 08:01 4711                       /usr/lib/some library.so
7f0001200000-7f0001600000 rw-s 00000000 00:00 0
7ffc00000000-7ffc00400000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_private_writable_memory_without_a_file_counts(tmp_path):
    (tmp_path / "maps").write_text(MAPS)
    heap, mapped = writable_memory(tmp_path / "maps")
    assert heap == (0x55D101DB3000, 0x55D101EB3000) and mapped == (0x7F0000000000, 0x7F0000400000)
    assert writable_memory(tmp_path / "nowhere") == []


def ranges(cuts):
    """Every second gap between ascending numbers."""
    ordered = sorted(cuts)
    return list(zip(ordered[::2], ordered[1::2], strict=False))


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_new_parts_exclude_earlier_memory(old, new):
    before, after = ranges(old), ranges(new)

    def pages(found):
        return {page for start, end in found for page in range(start, end)}

    found = new_parts(*([(s * PAGE, e * PAGE) for s, e in part] for part in (before, after)))
    assert pages([(s // PAGE, e // PAGE) for s, e in found]) == pages(after) - pages(before)


def test_new_parts_are_whole_huge_pages():
    assert new_parts([], [(5, PAGE - 1)]) == []
    assert new_parts([], [(5, 3 * PAGE + 7)]) == [(PAGE, 3 * PAGE)]
    assert new_parts([(0, PAGE + 1)], [(0, 4 * PAGE)]) == [(2 * PAGE, 4 * PAGE)]


def advised(address):
    """Whether huge pages were requested for the mapping at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            inside = start <= address < end
        elif inside and head == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("the mapping is gone")


@linux
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
def test_memory_allocated_in_the_block_is_advised_and_older_memory_is_not():
    def taken():
        memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return memory, np.frombuffer(memory, np.uint8).ctypes.data + 4 * PAGE

    old = taken()
    with advised_huge_pages(False):
        refused = taken()
    with advised_huge_pages():
        new = taken()
    assert [advised(address) for _, address in (old, refused, new)] == [False, False, True]


def test_results_are_the_same(export_directory):
    logits = []
    for wanted in (True, False):
        with open_session(export_directory, options=SessionOptions(threads=1, huge_pages=wanted)) as session:
            images = golden_of(session.model_file.directory, session.model_file.manifest).tiled(3, np.dtype(np.float32))
            logits.append(session.run(images, 0.5).logits)
    np.testing.assert_array_equal(*logits)
