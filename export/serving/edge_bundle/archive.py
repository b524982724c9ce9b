"""Reproducible tar files: sorted members with fixed owner, mode and time, all beneath one folder."""

import io
import os
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from tokfilter.artifacts.checked import checked_stream
from tokfilter.artifacts.files import atomic_path, sweep_parts
from tokfilter.errors import ExportError

__all__ = ["Content", "Listed", "write_tar"]


@dataclass(frozen=True)
class Listed:
    """A file of an export directory: what is written has this SHA-256, or nothing is written."""

    directory: Path
    name: str
    sha256: str


Content = Path | bytes | Listed
"""Content of a member: that of a file, or these bytes."""

_OLDEST: Final = 315532800
"""1980-01-01, as in the wheel: tools warn of older times."""


def write_tar(output: Path, folder: str, contents: Mapping[str, Content], programs: Collection[str] = ()) -> None:
    """Write ``output`` with every member beneath ``folder``: regular files only, sorted, owner 0.

    contents: relative path -> content
    programs: members that are executable
    Raises ExportError when ``output`` was created meanwhile, EngineError when a listed file has other bytes.
    """
    sweep_parts(output)
    try:
        with atomic_path(output, new=True) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(contents):
                _add(archive, f"{folder}/{name}", contents[name], 0o755 if name in programs else 0o644)
    except FileExistsError as error:
        raise ExportError(
            f"{output} was created meanwhile and is not overwritten: choose another name, or remove it."
        ) from error


def _add(archive: tarfile.TarFile, name: str, content: Content, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = _OLDEST, mode
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    if isinstance(content, Listed):
        with checked_stream(content.directory, content.name, content.sha256) as stream:
            member.size = stream.size
            archive.addfile(member, cast(IO[bytes], stream))
        return
    with content.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        archive.addfile(member, file)
