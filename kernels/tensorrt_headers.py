"""TensorRT's headers on this machine, their version, and the plugin class that it needs."""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tokfilter.errors import EngineError, MissingDependencyError

__all__ = [
    "HEADER_WHEEL",
    "cache_directory",
    "fetch_headers",
    "find_headers",
    "installed_version",
    "plugin_class",
    "series",
    "version_of_headers",
]

HEADER_WHEEL: Final = "kernel-lens==2.0.1"
"""A wheel with TensorRT 10.14's headers in ``kernel_lens/include/tensorrt``; its other files are not used."""

_HEADER_SHA256: Final = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
"""Of the only file of that release, ``kernel_lens-2.0.1-py3-none-any.whl``. pip refuses another one."""

_VARIABLE: Final = "TENSORRT_INCLUDE_DIR"
_HEADER: Final = "NvInferRuntime.h"
_IN_WHEEL: Final = Path("kernel_lens", "include", "tensorrt")
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
_DISTRIBUTIONS: Final = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def cache_directory() -> Path:
    """This user's folder for builds and downloaded headers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokfilter"


def find_headers(tensorrt: Path | None = None, fetch: bool = False) -> Path:
    """The folder of TensorRT's headers: in ``tensorrt`` (an SDK, or the folder itself), else in the folder that the
    environment variable TENSORRT_INCLUDE_DIR names, else JetPack's or a wheel's.

    fetch: install the header wheel where no other headers are found (needs a network)
    Raises MissingDependencyError, which lists the folders searched.
    """
    named = os.environ.get(_VARIABLE)
    if tensorrt:
        places = [tensorrt, tensorrt / "include"]
    elif named:
        places = [Path(named)]
    else:
        places = [*_SYSTEM_HEADERS, *_wheel_headers()]
    for place in places:
        if (place / _HEADER).is_file():
            return place
    if fetch and not tensorrt and not named:
        return fetch_headers()
    looked = ", ".join(str(place) for place in places)
    raise MissingDependencyError(
        f"Building the plugin needs TensorRT's headers ({_HEADER}); looked in {looked}"
        f"{f' ({_VARIABLE})' if named and not tensorrt else ''}. Pass the folder of a TensorRT SDK, or take the "
        f"headers of the wheel {HEADER_WHEEL}: tokfilter plugin build --fetch-headers."
    )


def fetch_headers() -> Path:
    """Install the header wheel, without its dependencies, into the cache; returns the folder of the headers.

    pip takes this one wheel only, and compares its SHA-256 sum. Raises MissingDependencyError where it cannot.
    """
    target = _fetched()
    headers = target / _IN_WHEEL
    if not (headers / _HEADER).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as scratch:
            installed = Path(scratch) / "installed"
            _install_wheel(Path(scratch), installed)
            if target.exists():  # of a pip that was killed
                target.rename(Path(scratch) / "incomplete")
            installed.rename(target)
    return headers


def _install_wheel(scratch: Path, target: Path) -> None:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{HEADER_WHEEL} --hash=sha256:{_HEADER_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    result = subprocess.run(
        [*pip, "--target", str(target), "--requirement", str(wanted)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines if "error" in line.lower()), lines[-1])
        got = next((f" ({line.strip()})" for line in lines if line.strip().startswith("Got")), "")
        raise MissingDependencyError(
            f"pip could not fetch {HEADER_WHEEL}: {reason}{got}. Without it, pass the folder of a TensorRT SDK or of "
            "its headers: tokfilter plugin build --tensorrt DIR."
        )


def version_of_headers(headers: Path) -> str:
    """ "8.6" or "10.14". Raises EngineError where NvInferVersion.h names no version."""
    path = headers / "NvInferVersion.h"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = dict(re.findall(r"define +(?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? +(\d+)", text))
    if len(found) != 2:
        raise EngineError(f"{path} names no TensorRT version. Pass the folder of a complete set of headers.")
    return f"{int(found['MAJOR'])}.{int(found['MINOR'])}"


def plugin_class(version: str) -> str:
    """The interface that the plugin has in this version of TensorRT: "IPluginV2DynamicExt" or "IPluginV3".

    Raises EngineError for a version without a plugin.
    """
    numbers = _numbers(version)
    if numbers >= (10, 3):  # IPluginV3 of 10.0 to 10.2 lacks functions that the plugin uses
        return "IPluginV3"
    if (8, 5) <= numbers < (9, 0):
        return "IPluginV2DynamicExt"
    raise EngineError(
        f"expected TensorRT 8.5, 8.6 or 10.3 and later for the plugin, got {version}. Build with headers of one of "
        "these (--tensorrt DIR), or build engines from native operators: --no-plugin."
    )


def series(version: str) -> str:
    """The versions that share a library with this one: "8.5", "8.6", "10", "11"."""
    major, minor = _numbers(version)
    return f"{major}.{minor}" if major < 10 else str(major)


def installed_version() -> str | None:
    """The version of TensorRT's Python package, else of the headers of JetPack or Debian; None without either.

    The package is not imported.
    """
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    headers = next((place for place in _SYSTEM_HEADERS if (place / _HEADER).is_file()), None)
    return version_of_headers(headers) if headers else None


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise EngineError(f"expected a TensorRT version such as 8.6 or 10.16, got {version!r}.")
    return int(found[1]), int(found[2])


def _fetched() -> Path:
    return cache_directory() / HEADER_WHEEL.replace("==", "-")


def _wheel_headers() -> list[Path]:
    places = [_fetched()]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        places.insert(0, Path(str(importlib.metadata.distribution("kernel-lens").locate_file(""))))
    return [place / _IN_WHEEL for place in places]
