"""Builds and locates the TensorRT plugin (``tokfilter plugin build``, ``tokfilter plugin path``).

Runs CMake on ``CMakeLists.txt``. Finds nvcc and TensorRT's headers and library on JetPack, in an SDK archive or in
wheels.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokfilter.errors import EngineError, MissingDependencyError

__all__ = [
    "HEADER_WHEEL",
    "PluginBuild",
    "build_plugin",
    "cache_directory",
    "fetch_headers",
    "find_headers",
    "find_tool",
    "plugin_directory",
    "plugin_path",
    "self_registering_path",
]

HEADER_WHEEL: Final = "kernel-lens==2.0.1"
"""A wheel with TensorRT 10.14's headers in ``kernel_lens/include/tensorrt``; its other files are not used."""

_SOURCE: Final = Path(__file__).resolve().parent
_DYNAMIC: Final = "libtokfilter_plugin.so"
_SELF_REGISTERING: Final = "libtokfilter_plugin_static.so"
_HEADER: Final = "NvInferRuntime.h"
_SYSTEM_HEADERS: Final = tuple(
    Path(path)
    for path in (
        "/usr/include/x86_64-linux-gnu",  # Debian packages
        "/usr/include/aarch64-linux-gnu",  # JetPack
        "/usr/include",
        "/usr/local/tensorrt/include",  # NVIDIA's containers
        "/opt/tensorrt/include",
    )
)
_LOG_LINES: Final = 15


@dataclass(frozen=True)
class PluginBuild:
    """Result of a build. ``self_registering`` is None without a libnvinfer of the headers' major version."""

    directory: Path
    dynamic: Path
    self_registering: Path | None


def cache_directory() -> Path:
    """This user's folder for builds and downloaded headers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokfilter"


def plugin_directory() -> Path:
    """The build folder for these sources; its name has their digest, so other versions have other folders."""
    digest = hashlib.sha256()
    csrc = _SOURCE / "csrc"
    files = [_SOURCE / "CMakeLists.txt", *csrc.glob("*.*"), *(csrc / "plugin").glob("*.*")]
    for path in sorted(path for path in files if path.suffix != ".md"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return cache_directory() / f"plugin-{digest.hexdigest()[:12]}"


def plugin_path(directory: Path | None = None) -> Path:
    """The plugin library for TensorRT's registry. Raises MissingDependencyError where it is not built."""
    path = (directory or plugin_directory()) / _DYNAMIC
    if not path.is_file():
        raise MissingDependencyError(f"No plugin library at {path}. Build it: tokfilter plugin build.")
    return path


def self_registering_path(directory: Path | None = None) -> Path:
    """The plugin library for hosts that load it with dlopen. Raises MissingDependencyError where it is not built."""
    path = (directory or plugin_directory()) / _SELF_REGISTERING
    if not path.is_file():
        raise MissingDependencyError(
            f"No self-registering plugin library at {path}. Build it where TensorRT is: tokfilter plugin build."
        )
    return path


def find_tool(name: str, *elsewhere: str, hint: str) -> str:
    """The path of a program: beside this Python, on PATH, or one of ``elsewhere``. Raises MissingDependencyError."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    for path in elsewhere:
        found = found or shutil.which(path)
    if found is None:
        raise MissingDependencyError(f"Building needs {name}, which is not on PATH. {hint}")
    return found


def find_headers(tensorrt: Path | None = None, fetch: bool = False) -> Path:
    """The folder of TensorRT's headers: in ``tensorrt`` (an SDK, or the folder itself), else JetPack's or a wheel's.

    fetch: install the header wheel where no other headers are found (needs a network)
    Raises MissingDependencyError, which lists the folders searched.
    """
    places = [tensorrt, tensorrt / "include"] if tensorrt else [*_SYSTEM_HEADERS, *_wheel_headers()]
    for place in places:
        if (place / _HEADER).is_file():
            return place
    if fetch and tensorrt is None:
        return fetch_headers()
    looked = ", ".join(str(place) for place in places)
    raise MissingDependencyError(
        f"Building the plugin needs TensorRT's headers ({_HEADER}); looked in {looked}. Pass the folder of a "
        f"TensorRT SDK, or take the headers of the wheel {HEADER_WHEEL}: tokfilter plugin build --fetch-headers."
    )


def fetch_headers() -> Path:
    """Install the header wheel, without its dependencies, into the cache; returns the folder of the headers.

    Raises MissingDependencyError where pip cannot.
    """
    target = _fetched()
    if not (target / "kernel_lens" / "include" / "tensorrt" / _HEADER).is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        result = subprocess.run(
            [*command, "--target", str(target), HEADER_WHEEL], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise MissingDependencyError(f"pip could not fetch {HEADER_WHEEL}: {_first_error(result.stderr)}")
    return target / "kernel_lens" / "include" / "tensorrt"


def build_plugin(
    directory: Path | None = None,
    tensorrt: Path | None = None,
    architectures: str | None = None,
    fetch: bool = False,
    options: Sequence[str] = (),
) -> PluginBuild:
    """Configure and build the plugin libraries.

    directory: build folder (default: :func:`plugin_directory`)
    tensorrt: a TensorRT SDK, or a folder of its headers
    architectures: CUDA architectures as CMake takes them, e.g. "87" or "native" (default: all from Turing on)
    fetch: download the headers of the wheel ``HEADER_WHEEL`` if this machine has none
    options: further arguments for CMake
    Raises MissingDependencyError for a missing tool or header, EngineError when CMake or a compiler fails.
    """
    directory = (directory or plugin_directory()).resolve()
    cmake = find_tool("cmake", hint="Install it: pip install cmake.")
    arguments = [*_found(tensorrt, fetch), *_generator(), *options]
    if architectures:
        arguments.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "build.log"
    log.unlink(missing_ok=True)
    _run([cmake, "-S", str(_SOURCE), "-B", str(directory), *arguments], log)
    _run([cmake, "--build", str(directory), "--parallel", str(min(os.cpu_count() or 1, 8))], log)
    self_registering = directory / _SELF_REGISTERING
    return PluginBuild(directory, plugin_path(directory), self_registering if self_registering.is_file() else None)


def _found(tensorrt: Path | None, fetch: bool) -> list[str]:
    """CMake's arguments for this machine's compiler, headers and libraries."""
    nvcc = os.environ.get("CUDACXX") or find_tool(
        "nvcc", "/usr/local/cuda/bin/nvcc", hint="Install the CUDA toolkit, or set CUDACXX to its nvcc."
    )
    arguments = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DTENSORRT_INCLUDE_DIR={find_headers(tensorrt, fetch)}"]
    if tensorrt:
        arguments.append(f"-DTENSORRT_ROOT={tensorrt.resolve()}")
    if libraries := _wheel_libraries():
        arguments.append(f"-DTENSORRT_LIBRARY_DIR={libraries}")
    return arguments


def _fetched() -> Path:
    return cache_directory() / HEADER_WHEEL.replace("==", "-")


def _wheel_headers() -> list[Path]:
    places = [_fetched()]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        places.insert(0, Path(str(importlib.metadata.distribution("kernel-lens").locate_file(""))))
    return [place / "kernel_lens" / "include" / "tensorrt" for place in places]


def _wheel_libraries() -> Path | None:
    """The folder of libnvinfer in an installed tensorrt wheel, found without importing it."""
    spec = importlib.util.find_spec("tensorrt_libs")
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def _generator() -> list[str]:
    ninja = shutil.which("ninja", path=str(Path(sys.executable).parent)) or shutil.which("ninja")
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


def _run(command: list[str], log: Path) -> None:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, errors="replace"
    )
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{result.stdout}")
    if result.returncode != 0:
        raise EngineError(f"The plugin did not build; all of the output is in {log}:\n{_first_error(result.stdout)}")


def _first_error(output: str) -> str:
    """The lines from the first error on (later errors follow from it); else the last lines."""
    lines = output.strip().splitlines()
    for number, line in enumerate(lines):
        if "error" in line.lower():
            return "\n".join(lines[number : number + _LOG_LINES])
    return "\n".join(lines[-_LOG_LINES:])
