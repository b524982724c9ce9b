"""The bytes that were hashed are the bytes that are loaded, also while somebody exchanges the file."""

import hashlib
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokfilter.artifacts import checked
from tokfilter.artifacts.checked import (
    check_file,
    checked_bytes,
    checked_copy,
    checked_file,
    checked_library,
    checked_stream,
)
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import Entry, entry_from_file, load_manifest
from tokfilter.errors import DataError, EngineError
from tokfilter.runtime.model_files import find_model_file
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession

OPENS = 200


def by_file(directory, entry):
    with checked_file(directory, entry) as path:
        return path.read_bytes()


def by_copy(directory, entry):
    folder = directory / "copies"
    folder.mkdir(exist_ok=True)
    target = checked_copy(directory, entry, folder)
    content = target.read_bytes()
    target.unlink()
    return content


def by_library(directory, entry):
    checked._libraries.pop(entry.sha256, None)
    return checked_library(directory, entry).read_bytes()


READERS = [checked_bytes, by_file, by_copy, by_library]


def without_memfd(monkeypatch):
    monkeypatch.setattr(checked, "_new_memfd", lambda: None)


SWAPPER = """
import os, sys
path, *contents = sys.argv[1:]
contents = [open(name, "rb").read() for name in contents]
print("swapping", flush=True)
while os.getppid() == int(os.environ["TEST_PROCESS"]):
    for content in contents:
        with open(path + ".other", "wb") as file:
            file.write(content)
        os.replace(path + ".other", path)
    for content in contents:
        with open(path, "r+b") as file:
            file.write(content)
"""


@contextmanager
def swapping(path: Path, *contents: bytes):
    """Exchange the file, by rename and in place, as long as the block runs: another process, as an attacker's is."""
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder, str(i))) for i in range(len(contents))]
        for name, content in zip(names, contents, strict=True):
            Path(name).write_bytes(content)
        environment = {**os.environ, "TEST_PROCESS": str(os.getpid())}
        command = [sys.executable, "-S", "-c", SWAPPER, str(path), *names]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"swapping\n"
            try:
                yield
            finally:
                process.kill()


def a_file(folder, size, name="model.onnx"):
    content = np.random.default_rng(size).bytes(size)
    (folder / name).write_bytes(content)
    return content, entry_from_file(folder, name, "filtered", runtime="onnx", precision="fp32")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1_000_003])
@pytest.mark.parametrize("memfd", [True, False])
def test_all_bytes_come(tmp_path, monkeypatch, read, size, memfd):
    if not memfd:
        without_memfd(monkeypatch)
    content, entry = a_file(tmp_path, size)
    assert read(tmp_path, entry) == content
    check_file(tmp_path, entry)


@pytest.mark.parametrize("read", [*READERS, check_file])
@pytest.mark.parametrize("damage", ["flip", "longer", "shorter", "gone", "folder", "fifo", "size", "unreadable"])
def test_anything_else_is_refused(tmp_path, read, damage):
    content, entry = a_file(tmp_path, 5000)
    path = tmp_path / "model.onnx"
    words = "its bytes have changed. Export again"
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage in ("longer", "shorter"):
        path.write_bytes(content + b"x" if damage == "longer" else content[:-1])
    elif damage == "size":
        entry = replace(entry, bytes=4999)
    elif damage == "unreadable":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("the superuser reads everything")
        words = "cannot be read"
    else:
        path.unlink()
        words = "no regular file"
        if damage == "gone":
            words = "is missing, though manifest.json lists it"
        elif damage == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
    with pytest.raises(EngineError, match=words):
        read(tmp_path, entry)
    assert not list((tmp_path / "copies").glob("*"))


@pytest.mark.parametrize("read", [*READERS, check_file])
@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "..", "sub/model.onnx"])
def test_no_name_leaves_the_directory(tmp_path, read, name):
    """Entries are checked when a manifest is read; an entry that was made otherwise gets no further either."""
    _, entry = a_file(tmp_path, 3)
    directory = tmp_path / "out"
    directory.mkdir()
    with pytest.raises(DataError, match="expected the name of a file inside"):
        read(directory, replace(entry, path=name))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("memfd", [True, False])
def test_a_swapper_never_gets_its_bytes_in(tmp_path, monkeypatch, read, memfd):
    if not memfd:
        without_memfd(monkeypatch)
    good, entry = a_file(tmp_path, 30_000)
    evil = bytes(30_000)
    loaded = refused = 0
    with swapping(tmp_path / "model.onnx", evil, good):
        for _ in range(OPENS):
            try:
                assert read(tmp_path, entry) == good
                loaded += 1
            except EngineError:
                refused += 1
    assert loaded + refused == OPENS


class Openings:
    """Before the path is opened a second time, its content is exchanged: the worst moment, every time."""

    def __init__(self):
        self.path, self.count = None, 0
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if event == "open" and self.path is not None and arguments[0] == str(self.path):
            self.count += 1
            if self.count == 2:
                path, self.path = self.path, None
                path.write_bytes(bytes(path.stat().st_size))

    def watch(self, path):
        self.path, self.count = path, 0


@pytest.fixture(scope="module")
def openings():
    """An audit hook cannot be removed: there is one."""
    openings = Openings()
    yield openings
    openings.path = None


def check_and_reopen(directory, entry):
    check_file(directory, entry)
    return (directory / entry.path).read_bytes()


@pytest.mark.parametrize("read", [*READERS, check_and_reopen])
@pytest.mark.parametrize("memfd", [True, False])
def test_a_file_is_opened_once(tmp_path, monkeypatch, openings, read, memfd):
    if not memfd:
        without_memfd(monkeypatch)
    good, entry = a_file(tmp_path, 3000)
    openings.watch(tmp_path / "model.onnx")
    found = read(tmp_path, entry)
    assert (found == good, openings.count) == ((False, 2) if read is check_and_reopen else (True, 1))


def test_what_was_yielded_stays_what_it_is(tmp_path):
    """The path is read again after the file was exchanged and written to: the copy is sealed."""
    good, entry = a_file(tmp_path, 3000)
    with checked_file(tmp_path, entry) as path:
        (tmp_path / "model.onnx").write_bytes(bytes(3000))
        assert path.read_bytes() == good
        if str(path).startswith("/proc"):
            with pytest.raises(OSError), path.open("r+b") as file:
                file.write(b"evil")
            assert path.read_bytes() == good


def test_no_descriptor_and_no_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, entry = a_file(tmp_path, 3000)
    wrong = replace(entry, sha256="0" * 64)
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        by_file(tmp_path, entry)
        checked_bytes(tmp_path, entry)
        for read in (by_file, checked_bytes, check_file):
            with pytest.raises(EngineError):
                read(tmp_path, wrong)
    without_memfd(monkeypatch)
    by_file(tmp_path, entry)
    with pytest.raises(EngineError):
        by_file(tmp_path, wrong)
    assert len(list(Path("/proc/self/fd").iterdir())) == count
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_external_weights_come_along_and_are_checked(tmp_path):
    graph, entry = a_file(tmp_path, 100)
    weights, other = a_file(tmp_path, 5000, "model.onnx.data")
    entry = replace(entry, external={"model.onnx.data": other.sha256})
    with checked_file(tmp_path, entry) as path:
        assert path.name == "model.onnx" and path.parent != tmp_path
        assert path.parent.stat().st_mode & 0o077 == 0
        (tmp_path / "model.onnx.data").write_bytes(bytes(5000))
        assert (path.read_bytes(), path.with_name("model.onnx.data").read_bytes()) == (graph, weights)
    assert not path.parent.exists()
    for read in (by_file, check_file):
        with pytest.raises(EngineError, match=r"model.onnx.data is not the file"):
            read(tmp_path, entry)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"model.onnx.data is missing"):
        by_file(tmp_path, entry)


def test_a_library_keeps_its_path_and_other_bytes_get_another(tmp_path):
    """The dynamic loader takes the same path for the same library."""
    first, one = a_file(tmp_path, 3000, "a.so")
    second, two = a_file(tmp_path, 3001, "b.so")
    path = checked_library(tmp_path, one)
    assert checked_library(tmp_path, two) != path == checked_library(tmp_path, one)
    assert (path.read_bytes(), checked_library(tmp_path, two).read_bytes()) == (first, second)


def test_files_beyond_the_limit_are_not_read(tmp_path):
    """A sparse file of any size costs nothing to make."""
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(1 << 40)
    entry = Entry("model.onnx", "filtered", "0" * 64, 1 << 40)
    for read in (checked_bytes, by_file, by_library):
        with pytest.raises(EngineError, match="must have at most 8192 MiB, manifest.json says 1048576"):
            read(tmp_path, entry)
    with pytest.raises(EngineError, match="must have at most 0 MiB"):
        checked_bytes(tmp_path, a_file(tmp_path, 100, "golden.npz")[1], limit=99)


@pytest.mark.parametrize("read", [*READERS, check_file])
def test_holes_are_not_read(tmp_path, read):
    """However right the size and the sum in the manifest are."""
    with (tmp_path / "model.onnx").open("wb") as file:
        file.write(b"x")
        file.truncate(1 << 32)
    with pytest.raises(EngineError, match="is a sparse file: 42949.* of its 4294967296 bytes were never written"):
        read(tmp_path, Entry("model.onnx", "filtered", "0" * 64, 1 << 32))


def test_a_stream_that_was_not_read_to_its_end_is_no_success(tmp_path):
    content, entry = a_file(tmp_path, 100)
    with checked_stream(tmp_path, entry.path, entry.sha256, 100) as stream:
        assert stream.read(60) + stream.read(60) == content
    with (
        pytest.raises(EngineError, match="have changed"),
        checked_stream(tmp_path, entry.path, entry.sha256, 100) as stream,
    ):
        stream.read(99)


def test_no_altered_model_runs_beside_a_swapper(export_directory, tmp_path):
    """ONNX Runtime itself opens the file: the graph's logits are always the good graph's."""
    import shutil

    shutil.copytree(export_directory, tmp_path / "out")
    chosen = find_model_file(tmp_path / "out", "full")
    images = golden_of(chosen.directory, chosen.manifest).images[:1]
    path = chosen.directory / chosen.entry.path
    good = path.read_bytes()
    with OnnxRuntimeSession(chosen, threads=1) as session:
        expected = session.run(images).logits
    other = (chosen.directory / "model.onnx").read_bytes().ljust(len(good), b"\n")[: len(good)]
    assert hashlib.sha256(other).hexdigest() != chosen.entry.sha256
    with swapping(path, other, good):
        for _ in range(40):
            try:
                with OnnxRuntimeSession(chosen, threads=1) as session:
                    np.testing.assert_array_equal(session.run(images).logits, expected)
            except EngineError as error:
                assert "its bytes have changed" in str(error)
    path.write_bytes(good)
    with OnnxRuntimeSession(chosen, threads=1) as session:
        np.testing.assert_array_equal(session.run(images).logits, expected)


def test_golden_tensors_beside_a_swapper(export_directory, tmp_path):
    import shutil

    shutil.copytree(export_directory, tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    path = tmp_path / "out" / "golden.npz"
    good = path.read_bytes()
    expected = golden_of(tmp_path / "out", manifest)
    # The same archive with the last bytes of its first array altered: numpy reads it without complaint.
    altered = bytearray(good)
    altered[1000:1004] = b"evil"
    with swapping(path, bytes(altered), good):
        for _ in range(OPENS):
            try:
                golden = golden_of(tmp_path / "out", manifest)
            except EngineError:
                continue
            np.testing.assert_array_equal(golden.images, expected.images)
