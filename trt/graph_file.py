"""One fact of an ONNX file without the package onnx, which a machine that only builds engines may not have."""

from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["has_functions"]

_FUNCTIONS: Final = 25
"""Number of ``functions`` in ONNX's ModelProto (onnx.proto)."""

_FIXED: Final = {1: 8, 5: 4}
"""Protobuf wire type -> bytes of its value."""


def has_functions(path: Path) -> bool:
    """Whether an ONNX model has model-local functions. False for a file that is no model: the parser says so."""
    with path.open("rb") as file:
        while (key := _varint(file)) is not None:
            number, kind = key >> 3, key & 7
            if number == _FUNCTIONS and kind == 2:
                return True
            size = _varint(file) if kind in (0, 2) else _FIXED.get(kind)
            if size is None:
                return False
            file.seek(0 if kind == 0 else size, 1)
    return False


def _varint(file: BinaryIO) -> int | None:
    """The next variable-length number; None at the end of the file and where there is none."""
    value = 0
    for position in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    return None
