"""The zip archives that torch.save and np.savez write: parts that are stored, not compressed, each with a CRC-32."""

import errno
import math
import os
import stat
import struct
import sys
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, cast

from tokfilter.artifacts.limits import MAX_PARTS_LIST

__all__ = ["DAMAGES", "checked_archive", "open_regular"]

DAMAGES: Final = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    OSError,
)
"""What ``zipfile`` raises for damaged archives."""


_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
"""Records behind the list of parts (PKWARE's APPNOTE, 4.3.14 to 4.3.16); the last two where it says so in 64 bits."""


def open_regular(path: Path) -> BufferedReader:
    """``path``, open to read. Raises OSError, also for what is no regular file: the open of a FIFO would wait."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def checked_archive(file: IO[bytes], largest: float = math.inf) -> zipfile.ZipFile:
    """The archive in an open file, after a pass over all its bytes: parts stored, none listed twice, every CRC right.

    largest: bytes of the file
    Raises ValueError with the reason, or another of DAMAGES.
    """
    size = file.seek(0, os.SEEK_END)
    if size > largest:
        raise ValueError(f"it must have at most {int(largest) >> 20} MiB, got {size >> 20}")
    _check_end(file, size)
    reads = _BoundedReads(file)
    archive = zipfile.ZipFile(cast("IO[bytes]", reads))
    reads.largest = sys.maxsize  # the list is read; parts are no longer than the file
    parts = archive.infolist()
    inflated = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if inflated:
        raise ValueError(f"its part {inflated[0]!r:.100} is compressed")
    if len({part.filename.lower() for part in parts}) < len(parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("it lists the same bytes or names more than once")
    if any(part.file_size != part.compress_size for part in parts):
        raise ValueError("sizes in its list of parts contradict each other")
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged!r:.100} is not as it was written")
    return archive


def _check_end(file: IO[bytes], size: int) -> None:
    """The list of parts ends where its records begin, which end the file. Raises ValueError.

    torch reads archives by another library, which takes the list's place from a record; ``zipfile`` takes the list
    before the record. So an archive with two lists would be checked by one and read by the other.
    """
    most = _END64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - most))
    tail = file.read(most)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("File is not a zip file, or something follows its list of parts")
    *_, length, offset, comment = _END.unpack(tail[-_END.size :])
    end, known = size - _END.size, (length, offset)
    if len(tail) == most and tail[_END64.size :][:4] == b"PK\x06\x07":
        end -= _LOCATOR.size + _END64.size
        magic, record, *_, length, offset = _END64.unpack(tail[: _END64.size])
        place = _LOCATOR.unpack(tail[_END64.size : -_END.size])[2]
        agree = all(short in (0xFFFFFFFF, long) for short, long in zip(known, (length, offset), strict=True))
        if magic != b"PK\x06\x06" or record != _END64.size - 12 or place != end or not agree:
            raise ValueError("the records of its list of parts contradict each other")
    if comment or offset + length != end:
        raise ValueError("its list of parts is not where its record says")


class _BoundedReads:
    """A file for ``zipfile``, which reads the list of parts at once, however long it says to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.largest = MAX_PARTS_LIST

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """At most ``largest`` bytes at once. Raises ValueError."""
        if self.largest == sys.maxsize:
            return self._file.read(size)
        content = self._file.read(self.largest + 1 if size < 0 else min(size, self.largest + 1))
        if len(content) > self.largest:
            raise ValueError(f"its list of parts must have at most {MAX_PARTS_LIST >> 20} MiB")
        return content
