"""Arrays of an .npz file as np.savez writes it. np.load would take the memory that an array's header asks for."""

import math
from collections.abc import Mapping
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from tokfilter.artifacts.zip_parts import checked_archive

__all__ = ["arrays_from_npz"]

_KINDS: Final = "biuf"
"""Plain numbers; np.savez pickles objects."""


def arrays_from_npz(file: IO[bytes]) -> Mapping[str, NDArray[Any]]:
    """Name -> array. The parts are stored, not compressed, and agree with their checksums.

    Raises ValueError, or another of ``zip_parts.DAMAGES``.
    """
    archive = checked_archive(file)
    arrays = {}
    for part in archive.infolist():
        with archive.open(part) as member:
            arrays[part.filename.removesuffix(".npy")] = _array(member, part.filename, part.file_size)
    return arrays


def _array(member: IO[bytes], name: str, size: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its array {name!r:.80} has version {version} of the format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_column, dtype = read(member)
    except Exception as error:  # numpy parses the header as Python, and lets that parser's errors through
        raise ValueError(f"its array {name!r:.80} has no header of an array") from error
    if dtype.kind not in _KINDS or not dtype.isnative or any(side < 0 for side in shape):
        raise ValueError(f"its array {name!r:.80} is no array of numbers")
    content = member.read()
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"its array {name!r:.80} of {dtype} {list(shape)} has {len(content)} bytes")
    array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")
    return np.array(array, order="C")  # a copy that can be written to
