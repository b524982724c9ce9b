"""Every flipped bit of a file of torch.save is found, and no file takes more than it holds."""

import io
import os
import random
import zipfile

import pytest
import torch

from tokfilter.artifacts.torch_file import full_disk_named, is_dense, read_torch_file, save_torch_file
from tokfilter.artifacts.zip_parts import checked_archive

CONTENT = {"weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(300)}, "names": ["x", "y"], "rate": 0.1}


@pytest.fixture
def file(tmp_path):
    save_torch_file(CONTENT, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def same(content):
    weights = content["weights"]
    return (
        content["names"] == ["x", "y"]
        and content["rate"] == 0.1
        and all(torch.equal(weights[name], value) for name, value in CONTENT["weights"].items())
    )


def test_what_is_written_is_read(file):
    assert same(read_torch_file(file))


def test_no_flipped_bit_is_taken_for_other_values(file):
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(150):
        place = draw.randrange(len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            assert same(read_torch_file(file))
        except ValueError:
            refused += 1
    assert refused > 75  # the others are in padding between the parts


def test_parts_that_are_compressed_or_listed_again_are_refused(file, tmp_path):
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "deflated.pth", "w") as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        read_torch_file(tmp_path / "deflated.pth")


def test_many_entries_on_one_part_are_refused():
    """4,000 names for the same bytes: each would be read and checked on its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", bytes(100_000))
        (first,) = archive.infolist()
        for number in range(4000):
            again = zipfile.ZipInfo(f"{number:04d}")
            again.header_offset, again.file_size, again.compress_size = 0, first.file_size, first.compress_size
            again.CRC = first.CRC
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(ValueError, match="more than once"):
        checked_archive(buffer)


def test_files_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    with pytest.raises(ValueError, match="no regular file"):
        read_torch_file(tmp_path / "fifo.pth")
    with (tmp_path / "sparse.pth").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="at most 8192 MiB, got 1048576"):
        read_torch_file(tmp_path / "sparse.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match="no file that torch.save wrote"):
        read_torch_file(tmp_path / "text.pth", legacy=True)


def bytes_of(count):
    class Bytes:
        def __reduce__(self):
            return bytearray, (count,)

    return Bytes()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path, legacy):
    torch.save({"a": bytes_of(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="bytes that it does not hold"):
        read_torch_file(tmp_path / "x.pth", legacy=True)


def test_the_old_format_is_read_where_it_is_allowed(tmp_path):
    torch.save(CONTENT, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_torch_file(tmp_path / "old.pth", legacy=True))
    with pytest.raises(ValueError, match="no file that torch.save wrote"):
        read_torch_file(tmp_path / "old.pth")


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.ones(2, 3).t(), True),
        (torch.ones(4, 4)[1], True),
        (torch.zeros(0), True),
        (torch.ones(1).expand(5), False),
        (torch.ones(3, device="meta"), False),
        (torch.ones(3).to_sparse(), False),
        (torch.ones(9).as_strided((5, 5), (1, 1)), False),
    ],
)
def test_dense_tensors_hold_their_values(tensor, dense):
    assert is_dense(tensor) is dense


def test_a_full_disk_is_an_error_of_the_operating_system(tmp_path):
    with pytest.raises(OSError, match="the disk may be full"), full_disk_named(tmp_path / "x"):
        torch.save(CONTENT, "/dev/full")


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / ".x.pt.999999999.abcdefgh.part"
    left.write_bytes(b"half")
    save_torch_file({"a": 1}, tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def rewritten(file, parts):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts:
            archive.writestr(zipfile.ZipInfo(name), content)


def parts_of(file):
    with zipfile.ZipFile(file) as archive:
        return [(part.filename, archive.read(part)) for part in archive.infolist()]


def test_a_pickle_is_checked_whatever_the_case_of_its_name(file):
    """torch finds data.pkl under DATA.PKL too."""
    parts = [(name.replace("data.pkl", "DATA.PKL"), content) for name, content in parts_of(file)]
    rewritten(file, parts)
    assert same(torch.load(file, weights_only=True)) and same(read_torch_file(file))
    bytearray_of = b"\x80\x02cbuiltins\nbytearray\n(I1000000000000\ntR."
    rewritten(file, [(name, bytearray_of if name.endswith("DATA.PKL") else content) for name, content in parts])
    with pytest.raises(ValueError, match="asks for bytes that it does not hold"):
        read_torch_file(file)


def test_names_that_differ_by_case_alone_are_one_name(file):
    parts = parts_of(file)
    rewritten(file, [*parts, (parts[0][0].replace("data.pkl", "DATA.pkl"), parts[0][1])])
    with pytest.raises(ValueError, match="bytes or names more than once"):
        read_torch_file(file)


def test_an_archive_with_two_lists_of_parts_is_refused(file):
    """``zipfile`` takes the list before the record at the end, torch the one that the record names."""
    archives = [io.BytesIO(), io.BytesIO()]  # of equal lengths: offsets of the second fit the first
    for archive, rate in zip(archives, (0.2, 0.1), strict=True):
        torch.save({**CONTENT, "rate": rate}, archive)
    file.write_bytes(archives[0].getvalue() + archives[1].getvalue())
    assert torch.load(file, weights_only=True)["rate"] == 0.2
    with zipfile.ZipFile(file) as archive:
        assert min(part.header_offset for part in archive.infolist()) == len(archives[0].getvalue())
    with pytest.raises(ValueError, match="contradict each other|not where its record says"):
        read_torch_file(file)


@pytest.mark.parametrize("behind", [b"x", b"PK\x05\x06" + bytes(18)])
def test_nothing_follows_the_records_of_an_archive(file, behind):
    file.write_bytes(file.read_bytes() + behind)
    with pytest.raises(ValueError, match="follows its list of parts|not where its record says"):
        read_torch_file(file)
