"""Builds and locates the TensorRT plugin (``tokfilter plugin build``, ``tokfilter plugin path``).

Runs CMake on ``CMakeLists.txt``. Finds nvcc and TensorRT's headers and library on JetPack, in an SDK archive or in
wheels. The version of the headers chooses the plugin class: IPluginV2DynamicExt (8.5, 8.6) or IPluginV3 (10.3 and
later). Each series of versions (8.5, 8.6, 10, 11) has a build folder of its own, and so has each place that tokfilter
is installed in: CMake refuses a folder that it configured for sources in another place.
"""

import hashlib
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
from tokfilter.kernels.cmake_cache import configure_anew
from tokfilter.kernels.tensorrt_headers import (
    HEADER_WHEEL,
    cache_directory,
    fetch_headers,
    find_headers,
    installed_version,
    plugin_class,
    series,
    version_of_headers,
)

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

_SOURCE: Final = Path(__file__).resolve().parent
_DYNAMIC: Final = "libtokfilter_plugin.so"
_SELF_REGISTERING: Final = "libtokfilter_plugin_static.so"
_LOG_LINES: Final = 15


@dataclass(frozen=True)
class PluginBuild:
    """Result of a build.

    version: TensorRT's, from the headers, e.g. "8.6"
    interface: the plugin class, "IPluginV2DynamicExt" or "IPluginV3"
    dynamic: for TensorRT's registry; None for 8.5, whose registry loads no libraries
    self_registering: for hosts that call dlopen; None without a libnvinfer of the headers' version
    """

    directory: Path
    version: str
    interface: str
    dynamic: Path | None
    self_registering: Path | None


def plugin_directory(version: str) -> Path:
    """The build folder for a TensorRT version: named after these sources, the place they are in, and its series."""
    place = hashlib.sha256(os.fsencode(_SOURCE)).hexdigest()[:8]
    return cache_directory() / f"plugin-{_digest()}-{place}-trt{series(version)}"


def plugin_path(directory: Path | None = None, version: str | None = None) -> Path:
    """The plugin library for TensorRT's registry. Raises MissingDependencyError where it is not built.

    directory: a build folder, instead of the user's cache
    version: of the TensorRT that will load it (default: the installed one; without one, the only one built for)
    """
    return _library(_DYNAMIC, "No plugin library", "Build it: tokfilter plugin build.", directory, version)


def self_registering_path(directory: Path | None = None, version: str | None = None) -> Path:
    """The plugin library for hosts that load it with dlopen. Raises MissingDependencyError where it is not built.

    directory, version: as for :func:`plugin_path`
    """
    build = "Build it where TensorRT is: tokfilter plugin build."
    return _library(_SELF_REGISTERING, "No self-registering plugin library", build, directory, version)


def find_tool(name: str, *elsewhere: str, hint: str) -> str:
    """The path of a program: beside this Python, on PATH, or one of ``elsewhere``. Raises MissingDependencyError."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    for path in elsewhere:
        found = found or shutil.which(path)
    if found is None:
        raise MissingDependencyError(f"Building needs {name}, which is not on PATH. {hint}")
    return found


def build_plugin(
    directory: Path | None = None,
    tensorrt: Path | None = None,
    architectures: str | None = None,
    fetch: bool = False,
    options: Sequence[str] = (),
) -> PluginBuild:
    """Configure and build the plugin libraries.

    directory: build folder (default: :func:`plugin_directory` of the headers' version)
    tensorrt: a TensorRT SDK, or a folder of its headers
    architectures: CUDA architectures as CMake takes them, e.g. "87" or "native" (default: all from Turing on)
    fetch: download the headers of the wheel ``HEADER_WHEEL`` if this machine has none
    options: further arguments for CMake
    Raises MissingDependencyError for a missing tool or header, EngineError for a TensorRT without a plugin, or when
    CMake or a compiler fails.
    """
    headers = find_headers(tensorrt, fetch)
    version = version_of_headers(headers)
    interface = plugin_class(version)
    directory = (directory or plugin_directory(version)).resolve()
    cmake = find_tool("cmake", hint="Install it: pip install cmake.")
    arguments = [*_found(tensorrt, headers), *_generator(), *options]
    if architectures:
        arguments.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    configure_anew(directory, _SOURCE, "Ninja" if "Ninja" in arguments else None)
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "build.log"
    for stale in (log, directory / _DYNAMIC, directory / _SELF_REGISTERING):
        stale.unlink(missing_ok=True)
    _run([cmake, "-S", str(_SOURCE), "-B", str(directory), *arguments], log)
    _run([cmake, "--build", str(directory), "--parallel", str(min(os.cpu_count() or 1, 8))], log)
    libraries = [directory / name for name in (_DYNAMIC, _SELF_REGISTERING)]
    dynamic, self_registering = (path if path.is_file() else None for path in libraries)
    if dynamic is None and self_registering is None:
        raise MissingDependencyError(
            f"TensorRT {version} loads no plugin libraries, only ones that register themselves. Such a library links "
            "libnvinfer of this version, which was not found. Build it where TensorRT is, or pass the folder that has "
            "include/ and lib/: tokfilter plugin build --tensorrt DIR."
        )
    return PluginBuild(directory, version, interface, dynamic, self_registering)


def _digest() -> str:
    """Of all sources, so that other versions of tokfilter have other folders."""
    digest = hashlib.sha256()
    files = [path for path in (_SOURCE / "csrc").rglob("*.*") if path.is_file() and path.suffix != ".md"]
    for path in [_SOURCE / "CMakeLists.txt", *sorted(files)]:
        digest.update(path.relative_to(_SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _library(name: str, missing: str, remedy: str, directory: Path | None, version: str | None) -> Path:
    version = version or installed_version()
    if directory:
        folders = [directory]
    elif version:
        folders = _folders_for(version, name)
    else:
        folders = [folder for folder in _built() if (folder / name).is_file()]
        if len(each := {_series_of(folder) for folder in folders}) > 1:
            kinds = ", ".join(sorted(each))
            raise MissingDependencyError(
                f"Plugin libraries for TensorRT {kinds} are built, and no TensorRT is installed here to choose by. "
                "Name the version: tokfilter plugin path --for 8.6."
            )
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    place = folders[0] if folders else cache_directory()
    wanted = f" for TensorRT {version}" if version and not directory else ""
    raise MissingDependencyError(f"{missing}{wanted} at {place / name}. {remedy}")


def _folders_for(version: str, name: str) -> list[Path]:
    """Build folders whose library this version can load, the best first.

    The same sources in another place (a second checkout or environment) give the same library. One for the registry
    works in 10.x and 11.x, whichever of the two it was built for.
    """
    own, kind = plugin_directory(version), series(version)
    others = [folder for folder in _built() if folder != own]
    alike = [folder for folder in others if _series_of(folder) == kind]
    if name == _DYNAMIC and plugin_class(version) == "IPluginV3":
        alike += [folder for folder in others if _series_of(folder) != kind and "." not in _series_of(folder)]
    return [own, *alike]


def _built() -> list[Path]:
    return sorted(cache_directory().glob(f"plugin-{_digest()}-*-trt*"))


def _series_of(folder: Path) -> str:
    return folder.name.rpartition("-trt")[2]


def _found(tensorrt: Path | None, headers: Path) -> list[str]:
    """CMake's arguments for this machine's compiler, headers and libraries."""
    nvcc = os.environ.get("CUDACXX") or find_tool(
        "nvcc", "/usr/local/cuda/bin/nvcc", hint="Install the CUDA toolkit, or set CUDACXX to its nvcc."
    )
    # Unset: CMake would keep a library that an earlier build in this folder found.
    arguments = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DTENSORRT_INCLUDE_DIR={headers}", "-UTENSORRT_LIBRARY"]
    if tensorrt:
        arguments.append(f"-DTENSORRT_ROOT={tensorrt.resolve()}")
    if libraries := wheel_libraries():
        arguments.append(f"-DTENSORRT_LIBRARY_DIR={libraries}")
    return arguments


def wheel_libraries() -> Path | None:
    """The folder of libnvinfer in an installed tensorrt wheel, found without importing it (8.x: in tensorrt itself)."""
    for package in ("tensorrt_libs", "tensorrt"):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or []:
            if any(Path(location).glob("libnvinfer.so.*")):
                return Path(location)
    return None


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
