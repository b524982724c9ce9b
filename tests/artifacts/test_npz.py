"""No array of an .npz file takes more memory than the file has bytes."""

import io
import zipfile

import numpy as np
import pytest

from tokfilter.artifacts.limits import MAX_PARTS_LIST
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.artifacts.zip_parts import DAMAGES


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file


def test_what_numpy_writes_is_read():
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "column": np.asfortranarray(np.eye(3, 4)),
        "empty": np.zeros((0, 3), np.int32),
        "one": np.array(7),
    }
    found = arrays_from_npz(npz(**arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
        assert found[name].flags.writeable and found[name].flags.c_contiguous


def test_an_array_may_be_larger_than_a_list_of_parts():
    array = np.zeros(MAX_PARTS_LIST + 1, np.uint8)
    array[-1] = 7
    assert np.array_equal(arrays_from_npz(npz(masks=array))["masks"], array)


def test_compressed_arrays_are_not_inflated():
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1_000_000))
    with pytest.raises(ValueError, match="is compressed"):
        arrays_from_npz(file)


@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**40), (7,), (-1,)])
def test_a_header_that_asks_for_more_is_refused(shape):
    member, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", member.getvalue() + bytes(32))
    with pytest.raises(ValueError, match="has 32 bytes|no array of numbers"):
        arrays_from_npz(file)


@pytest.mark.parametrize("text", [b"{" * 3000, b"(" * 60 + b")" * 60, b"import os", b"\xff", b""])
def test_a_header_that_is_none_is_refused(text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(ValueError, match="'a.npy' has no header of an array"):
        arrays_from_npz(file)


def test_objects_are_refused():
    with pytest.raises(ValueError, match="no array of numbers"):
        arrays_from_npz(npz(a=np.array([None, {}], dtype=object)))


def test_damaged_files_are_refused():
    whole = npz(a=np.arange(100)).getvalue()
    for place in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        try:
            found = arrays_from_npz(io.BytesIO(changed))
        except DAMAGES:
            continue
        assert np.array_equal(found.get("a", np.arange(100)), np.arange(100))
