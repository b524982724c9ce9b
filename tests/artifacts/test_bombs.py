"""Small files that ask for gigabytes: each ends in its sentence, in a process that took less than 400 MB."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from tokfilter.artifacts.json_file import json_from_file
from tokfilter.artifacts.limits import MAX_JSON_VALUES, MAX_LABELS_JSON

PROGRAM = """
import json, sys
from pathlib import Path
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.json_file import json_from_file
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.artifacts.zip_parts import checked_archive, open_regular

def npz(path):
    with open_regular(path) as file:
        arrays_from_npz(file)

def archive(path):
    with open_regular(path) as file:
        checked_archive(file)

readers = {".png": open_image, ".json": lambda path: json_from_file(path, 512 << 20), ".npz": npz, ".zip": archive}
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        readers[path.suffix](path)
        found[path.name] = "accepted"
    except Exception as error:
        found[path.name] = f"{type(error).__name__}: {error}"
status = Path("/proc/self/status")  # getrusage counts the process that started this one
found["peak"] = int(status.read_text().split("VmHWM:")[1].split()[0]) << 10 if status.exists() else 0
print(json.dumps(found))
"""


def sparse(path, start, size):
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def png_header(side):
    """A 16-bit RGB image of side x side by its header, without pixels."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "16bit.png").write_bytes(png_header(13_300))
    sparse(folder / "sparse.png", b"\x89PNG\r\n\x1a\n", 1 << 40)
    sparse(folder / "hole.json", b"", MAX_LABELS_JSON)
    sparse(folder / "long.json", b"[", 1 << 40)
    (folder / "deep.json").write_text("[" * 1_000_000)
    (folder / "many.json").write_text("[" + "[]," * MAX_JSON_VALUES + "[]]")
    keys = ",".join(f'"{number}":0' for number in range(100_000))
    (folder / "twice.json").write_text(f'{{{keys},"a":0,"a":0}}')
    sparse(folder / "end.zip", b"PK\x03\x04", 1 << 36)
    with (
        zipfile.ZipFile(folder / "deflated.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w", force_zip64=True) as part,
    ):
        for _ in range(500):
            part.write(bytes(1 << 20))
    os.mkfifo(folder / "fifo.npz")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("16bit.png", "at most 100 million pixels, got 13300 x 13300"),
        ("sparse.png", "is a sparse file"),
        ("hole.json", "it is empty"),
        ("long.json", "at most 512 MiB, got 1048576"),
        ("deep.json", "nested too deeply"),
        ("many.json", "more than 4,000,000 values"),
        ("twice.json", "the key 'a' more than once"),
        ("end.zip", "not a zip file"),
        ("deflated.npz", "is compressed"),
        ("fifo.npz", "no regular file"),
    ],
)
def test_each_bomb_ends_in_a_sentence(found, name, words):
    assert words in found[name]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_none_takes_memory(found):
    assert found["peak"] < 400 << 20


@pytest.mark.parametrize("depth", [100, 101, 500, 100_000])
def test_json_of_any_depth_is_read_or_refused(tmp_path, depth):
    path = tmp_path / "deep.json"
    path.write_text("[" * depth + "]" * depth)
    if depth <= 100:
        assert json_from_file(path)
    else:
        with pytest.raises(ValueError, match="it is nested too deeply"):
            json_from_file(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' more than once"),
        ("[1e999]", "larger than any number"),
        ("[-1e400]", "larger than any number"),
        ("[Infinity]", "not a number of JSON"),
        pytest.param(f"[1{'0' * 309}]", "larger than any number", id="310 digits"),
        pytest.param(f"[-1{'0' * 4200}]", "larger than any number", id="4201 digits"),
    ],
)
def test_what_readers_of_json_take_for_different_things_is_refused(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        json_from_file(tmp_path / "a.json")


def test_whole_numbers_up_to_the_largest_float_are_read_exactly(tmp_path):
    numbers = [0, -1, 2**63, 10**308, -(10**299)]
    (tmp_path / "a.json").write_text(json.dumps(numbers))
    assert json_from_file(tmp_path / "a.json") == numbers
