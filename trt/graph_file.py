"""Facts of an ONNX file without the package onnx, which a machine that only builds engines may not have."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["has_functions", "imports_domain"]

_OPSET_IMPORT: Final = 8
_FUNCTIONS: Final = 25
"""Numbers of fields in ONNX's ModelProto (onnx.proto)."""

_LARGEST_IMPORT: Final = 4096
"""Bytes of an opset import, a name and a number; a longer one is not read."""

_FIXED: Final = {1: 8, 5: 4}
"""Protobuf wire type -> bytes of its value."""


def has_functions(path: Path) -> bool:
    """Whether an ONNX model has model-local functions. False for a file that is no model: the parser says so."""
    with path.open("rb") as file:
        return any(number == _FUNCTIONS for number, _ in _messages(file))


def imports_domain(path: Path, domain: str) -> bool:
    """Whether an ONNX model imports operators of ``domain``. False for a file that is no model."""
    name = domain.encode()
    wanted = bytes([1 << 3 | 2, len(name)]) + name  # OperatorSetIdProto.domain
    with path.open("rb") as file:
        found = (size for number, size in _messages(file) if number == _OPSET_IMPORT)
        return any(wanted in file.read(min(size, _LARGEST_IMPORT)) for size in found)


def _messages(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Number and size of each message and text of a model; ``file`` is at its first byte."""
    while (key := _varint(file)) is not None:
        number, kind = key >> 3, key & 7
        size = _varint(file) if kind in (0, 2) else _FIXED.get(kind)
        if size is None:
            return
        end = file.tell() + (0 if kind == 0 else size)
        if kind == 2:
            yield number, size
        file.seek(end)


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
