"""The npm package of ONNX Runtime Web: fetched by npm or from the registry, and held to its checksum."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from page_browser import served

from tokfilter.benchmarks.page import onnxruntime_web
from tokfilter.benchmarks.page.onnxruntime_web import FILES, NAME, cached_package, copy_files, fetched_package
from tokfilter.errors import DataError, MissingDependencyError


def package_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in FILES:
            content = f"content of {member}".encode()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for other in ("package/dist/ort.webgl.min.js", "../outside.txt"):
            archive.addfile(tarfile.TarInfo(other), io.BytesIO())
    return buffer.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A small package in place of the real one, with its checksum; the cache is empty and nothing is on the PATH."""
    content = package_bytes()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setattr(onnxruntime_web, "_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "served").mkdir()
    path = tmp_path / "served" / NAME
    path.write_bytes(content)
    return path


def write_npm(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def test_only_two_files_are_copied(package, tmp_path):
    copy_files(package, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES.values())
    for member, name in FILES.items():
        assert (tmp_path / "out" / name).read_text() == f"content of {member}"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_package_with_other_bytes_is_refused(package, tmp_path, change):
    package.write_bytes(change(package.read_bytes()))
    with pytest.raises(DataError, match=r"expected sha512 .*, got .*fetch it again: npm pack onnxruntime-web@"):
        copy_files(package, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_not_there_is_named(package, tmp_path):
    with pytest.raises(DataError, match=r"as `npm pack onnxruntime-web@.*there is none at .*nothing\.tgz"):
        copy_files(tmp_path / "nothing.tgz", tmp_path / "out")


def test_npm_fetches_it_once(package, tmp_path):
    write_npm(tmp_path, f'/bin/echo "$@" >> {tmp_path}/calls\n/bin/cp {package} "$5"')
    assert fetched_package() == fetched_package() == cached_package()
    assert cached_package().read_bytes() == package.read_bytes()
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith(f"pack onnxruntime-web@{onnxruntime_web.VERSION} --silent --pack-destination ")


def test_without_npm_the_registry_is_asked(package, monkeypatch):
    with served(package.parent) as address:
        monkeypatch.setattr(onnxruntime_web, "_URL", f"{address}/{NAME}")
        assert fetched_package().read_bytes() == package.read_bytes()


def test_what_has_another_checksum_does_not_enter_the_cache(package, tmp_path):
    write_npm(tmp_path, f'/bin/echo other > "$5/{NAME}"')
    with pytest.raises(DataError, match="is not the npm package"):
        fetched_package()
    assert not cached_package().exists()


@pytest.mark.parametrize(
    ("npm", "reason"),
    [
        (None, r"http://127\.0\.0\.1:9/: .*refused"),
        ("/bin/echo 'npm error code ENOTFOUND' >&2; exit 1", "npm failed: npm error code ENOTFOUND"),
        ("exit 0", "npm failed: exit code 0"),
    ],
)
def test_without_a_network_the_remedy_is_named(package, tmp_path, npm, reason):
    if npm is not None:
        write_npm(tmp_path, npm)
    remedy = f"run `npm pack .*--onnxruntime-web {NAME}"
    with pytest.raises(MissingDependencyError, match=f"could not be fetched .{reason}.*{remedy}"):
        fetched_package()
    assert not cached_package().exists()


def test_an_npm_that_hangs_is_given_up(package, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "_SECONDS", 0.2)
    write_npm(tmp_path, "exec /bin/sleep 60")
    with pytest.raises(MissingDependencyError, match="npm gave no answer within"):
        fetched_package()
