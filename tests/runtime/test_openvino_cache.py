import os

import pytest

from tokfilter.runtime import openvino_cache
from tokfilter.runtime.openvino_cache import ModelCache, cache_folder, cache_key, model_cache


def test_what_was_written_is_read(tmp_path):
    cache = ModelCache(tmp_path)
    for blob in (b"", b"x", os.urandom(1000)):
        assert cache.write("key", blob)
        assert cache.read("key") == blob
    assert [path.name for path in tmp_path.iterdir()] == ["key.blob"]


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b[1:], lambda b: b""])
def test_a_damaged_file_counts_as_absent_and_is_removed(tmp_path, change):
    cache = ModelCache(tmp_path)
    cache.write("key", b"compiled")
    file = tmp_path / "key.blob"
    file.write_bytes(change(file.read_bytes()))
    assert cache.read("key") is None
    assert not file.exists()


@pytest.mark.parametrize("kind", ["pipe", "hole", "hole of any size", "folder", "loop"])
def test_what_is_no_file_counts_as_absent_and_is_not_read(tmp_path, kind):
    """A pipe would wait for a writer, a hole take memory."""
    cache, file = ModelCache(tmp_path), tmp_path / "key.blob"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file)
    else:
        file.touch()
        os.truncate(file, 1 << (32 if kind == "hole" else 42))
    assert cache.read("key") is None
    assert cache.write("key", b"x") == (kind not in ("folder", "pipe"))
    if kind not in ("folder", "pipe"):
        assert cache.read("key") == b"x"


def test_the_least_recently_used_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_cache, "_MOST_BYTES", 3 * 42)
    cache = ModelCache(tmp_path)
    for age, key in enumerate("abc"):
        cache.write(key, bytes(10))
        os.utime(tmp_path / f"{key}.blob", (age, age))
    assert cache.read("a") == bytes(10)  # used now
    cache.write("d", bytes(10))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]
    cache.write("large", bytes(1000))
    assert [path.stem for path in tmp_path.iterdir()] == ["large"]


def test_without_a_folder_nothing_is_kept():
    cache = ModelCache(None, "why")
    assert not cache.write("key", b"x")
    assert cache.read("key") is None
    cache.forget("key")
    assert model_cache(wanted=False).off == "it was not asked for"


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert model_cache().folder is None
    assert "its folder cannot be made" in model_cache().off


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_cache().folder == tmp_path / "tokfilter" / "openvino"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is not writable" in model_cache().off


def test_a_relative_cache_home_is_ignored_as_the_standard_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder().is_absolute()
    assert cache_folder().parts[-3:] == (".cache", "tokfilter", "openvino")


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino_cache, "atomic_path", full)
    assert not ModelCache(tmp_path).write("key", b"x")


def test_the_key_depends_on_each_part():
    parts = [("a", {"x": 1}, "2026", "cpu"), ("b", {"x": 1}, "2026", "cpu"), ("a", {"x": 2}, "2026", "cpu")]
    parts += [("a", {"y": 1}, "2026", "cpu"), ("a", {"x": 1}, "2027", "cpu"), ("a", {"x": 1}, "2026", "other")]
    parts += [(["a", {"weights.bin": digest}], {"x": 1}, "2026", "cpu") for digest in ("c", "d")]
    assert len({cache_key(*part) for part in parts}) == len(parts)
