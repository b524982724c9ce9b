"""Data sets that would have no end, or more bytes than they have, are refused before anything is listed."""

import io
import os
import tarfile

import pytest

from tokfilter.errors import DataError
from tokfilter.train.listing import listing_from_path
from tokfilter.train.walk import check_archive, check_tree


def member(name="a/x.png", size=4, kind=tarfile.REGTYPE, pax=None):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    return info


def archive(path, *parts):
    """parts: (header, bytes that follow)"""
    content = b""
    for info, data in parts:
        shape = tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT
        content += info.tobuf(shape) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    path.write_bytes(content + bytes(2 * tarfile.BLOCKSIZE))
    return path


def test_archives_that_tar_writes_pass(tmp_path):
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=form) as written:
            for file in ("a/x.png", "b/é" + "long" * 20 + ".png"):
                written.addfile(member(file), io.BytesIO(b"data"))
            written.addfile(member("a", 0, tarfile.DIRTYPE))
            link = member("c", 0, tarfile.SYMTYPE)
            link.linkname = "a"
            written.addfile(link)
        check_archive(tmp_path / f"{name}.tar")


BAD = {
    "size": ([(member(size=10**12), b"")], "has 1000000000000 bytes by its header"),
    "long name": ([(member("././@LongLink", 1 << 21, tarfile.GNUTYPE_LONGNAME), bytes(1 << 21))], "at most 1048576"),
    "long name's size": ([(member("././@LongLink", 10**12, tarfile.GNUTYPE_LONGNAME), b"")], "by its header"),
    "pax size": ([(member(pax={"size": "1000000000000"}), b"data")], "PAX records hold size"),
    "pax sparse": ([(member(pax={"GNU.sparse.realsize": "9"}), b"data")], "PAX records hold GNU.sparse.realsize"),
    "gnu sparse": ([(member(kind=tarfile.GNUTYPE_SPARSE), b"data")], "is a sparse file"),
    "name": ([(member("a/\udcff.png"), b"data")], "not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD)
def test_hostile_archives_are_refused(tmp_path, kind):
    parts, words = BAD[kind]
    path = archive(tmp_path / "x.tar", *parts)
    with pytest.raises(DataError, match=words):
        listing_from_path(path)


def test_archives_within_archives_end(tmp_path):
    path = archive(tmp_path / "0.tar", (member(), b"data"))
    for level in (1, 2):
        check_archive(path)
        content = path.read_bytes()
        path = archive(tmp_path / f"{level}.tar", (member("inner.tar", len(content)), content))
    with pytest.raises(DataError, match="more than 2 levels"):
        check_archive(path)


def test_what_is_no_archive_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(DataError, match="no regular file"):
        listing_from_path(tmp_path)
    (tmp_path / "text.tar").write_text("no archive" * 100)
    with pytest.raises(DataError, match="could not be read as a tar archive"):
        check_archive(tmp_path / "text.tar")


def test_a_symlink_that_leads_back_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to("..")
    with pytest.raises(DataError, match=r"a/up leads back to a folder that it is in"):
        listing_from_path(tmp_path)
    (tmp_path / "a/up").unlink()
    (tmp_path / "a/self").symlink_to("self")
    check_tree(tmp_path)


def test_symlinks_that_multiply_folders_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tokfilter.train.walk.MAX_FOLDERS", 500)
    for level in range(30):
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "30").mkdir()
    with pytest.raises(DataError, match="at most 500 folders"):
        check_tree(tmp_path / "0")


def test_names_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(DataError, match="has a name that is not UTF-8.*rename it"):
        listing_from_path(tmp_path)
