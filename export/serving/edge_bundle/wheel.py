"""A wheel of the running tokfilter; equal sources give equal bytes.

The format is PyPA's "Binary distribution format", version 1.0. Why no build back end writes it: an edge bundle is also
packed by an installed tokfilter, without pyproject.toml and setuptools, and must hold the same wheel. setuptools 77 and
84 write different bytes from one source, and ``wheel.wheelfile.WheelFile`` dates RECORD with the current time; it would
save the five lines that write RECORD. A test compares the files with those of a wheel that setuptools builds.
"""

import base64
import hashlib
import io
import zipfile
from typing import Final

from tokfilter.export.serving.edge_bundle.source import Package

__all__ = ["wheel_bytes", "wheel_name"]

_OLDEST: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time of the zip format."""

_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: tokfilter\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel_name(package: Package) -> str:
    """The wheel's file name, which pip parses."""
    return f"tokfilter-{package.version}-py3-none-any.whl"


def wheel_bytes(package: Package) -> bytes:
    """The wheel, not compressed: versions of zlib compress differently."""
    info = f"tokfilter-{package.version}.dist-info"
    members = {name: path.read_bytes() for name, path in sorted(package.files.items())}
    members |= {
        f"{info}/METADATA": package.metadata.encode(),
        f"{info}/WHEEL": _WHEEL.encode(),
        f"{info}/entry_points.txt": package.entry_points.encode(),
        f"{info}/licenses/LICENSE": package.licence.encode(),
    }
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
