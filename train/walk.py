"""Folders and tar archives of images, walked once before timm lists them: what has no end or no bytes is refused.

timm follows symlinks without looking where they lead. Python's ``tarfile`` reads a long name or PAX records of any size
into memory, and takes the sizes in headers as they are.
"""

import os
import re
import tarfile
from pathlib import Path
from typing import IO, Final

from tokfilter.artifacts.limits import MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_HEADER, MAX_FOLDERS, MAX_IMAGE_FILE
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import DataError

__all__ = ["check_archive", "check_name", "check_tree"]

_BLOCK: Final = tarfile.BLOCKSIZE
_LONG: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_RECORDS: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_OTHER_SIZE: Final = re.compile(rb"[0-9] (size|GNU\.sparse\.[a-z]{1,20})=")
_SIZED: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def check_tree(root: Path) -> None:
    """Raise DataError for a folder that a symlink leads back to, too many folders, and names that are not UTF-8."""
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(root, ())]
    seen = 0
    while waiting:
        folder, above = waiting.pop()
        seen += 1
        if seen > MAX_FOLDERS:
            raise DataError(f"{root} must have at most {MAX_FOLDERS} folders: remove symlinks that multiply them.")
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            raise DataError(f"{folder} cannot be read: {error.strerror}. Check its permissions.") from error
        me = (status.st_dev, status.st_ino)
        if me in above:
            raise DataError(f"{folder} leads back to a folder that it is in: remove this symlink.")
        for entry in found:
            check_name(entry.name, folder)
            if _is_folder(entry):
                waiting.append((Path(entry.path), (*above, me)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def check_name(name: str, place: Path) -> None:
    """Raise DataError for a name in a folder or an archive that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place} has a name that is not UTF-8, {name!r:.100}: rename it.") from error


def check_archive(path: Path) -> None:
    """Raise DataError for a tar archive whose headers do not fit its bytes, or that timm cannot list."""
    try:
        with open_regular(path) as file:
            _check_members(file, 0, os.fstat(file.fileno()).st_size, path, MAX_ARCHIVE_DEPTH)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DataError(
            f"{path} could not be read as a tar archive ({error}). It must be complete, not compressed and not sparse."
        ) from error


def _check_members(file: IO[bytes], start: int, stop: int, path: Path, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it holds archives in more than {MAX_ARCHIVE_DEPTH} levels")
    place = start
    while place + _BLOCK <= stop:
        file.seek(place)
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            return
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        data = place + _BLOCK
        size = member.size if _has_data(member) else 0
        if size < 0 or data + size > stop:
            raise ValueError(f"{member.name!r:.100} has {size} bytes by its header, and {stop - data} follow")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"{member.name!r:.100} is a sparse file")
        if member.type in (*_LONG, *_RECORDS):
            if member.size > MAX_ARCHIVE_HEADER:
                raise ValueError(f"a header has {member.size} bytes, expected at most {MAX_ARCHIVE_HEADER}")
            if member.type in _RECORDS:
                _check_records(file.read(member.size))
        elif member.type in _SIZED:
            check_name(member.name, path)
            if member.name.lower().endswith(".tar"):
                _check_members(file, data, data + member.size, path, depth - 1)
            elif member.size > MAX_IMAGE_FILE:
                raise ValueError(f"{member.name!r:.100} has {member.size} bytes, expected at most {MAX_IMAGE_FILE}")
        place = data + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _has_data(member: tarfile.TarInfo) -> bool:
    """Whether blocks follow the header, as ``tarfile`` decides it."""
    return member.isreg() or member.type not in tarfile.SUPPORTED_TYPES or member.type in (*_LONG, *_RECORDS)


def _check_records(content: bytes) -> None:
    """PAX records may give another size than the header, and sparse files: neither is needed below 8 GB."""
    found = _OTHER_SIZE.search(content)
    if found:
        raise ValueError(f"its PAX records hold {found[1].decode()}")
