"""Tar files that say nothing of who wrote them, when and in which order, and that cannot reach outside their folder."""

import io
import os
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import atomic_path
from tokfilter.errors import ExportError

__all__ = ["Content", "write_tar"]

Content = Path | bytes
"""What a member holds: the bytes of a file, or these."""

_OLDEST: Final = 315532800
"""1980-01-01: the same as in the wheel, and no tool finds it implausibly old."""


def write_tar(output: Path, folder: str, contents: Mapping[str, Content], programs: Collection[str] = ()) -> None:
    """Write ``output`` with every member beneath ``folder``: regular files only, sorted, owned by nobody.

    contents: relative path -> content
    programs: members that are executable
    Raises ExportError when ``output`` has come into being meanwhile.
    """
    with atomic_path(output) as part:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(contents):
                _add(archive, f"{folder}/{name}", contents[name], 0o755 if name in programs else 0o644)
        if os.path.lexists(output):
            raise ExportError(f"{output} has come into being meanwhile and is not overwritten.")


def _add(archive: tarfile.TarFile, name: str, content: Content, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = _OLDEST, mode
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    with content.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        archive.addfile(member, file)
