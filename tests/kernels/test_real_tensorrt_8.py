"""The plugin in the real registry of TensorRT 8.6, on a CPU: creator, creation, engine bytes, libraries of others.

Needs a TensorRT 8.6 with a Python of its own: ``TOKFILTER_TENSORRT8`` names a folder with ``lib/`` (libnvinfer.so.8),
``site/`` (the packages tensorrt and numpy) and ``python/`` (CPython 3.10). And the headers, which no package ships:
``TENSORRT_INCLUDE_DIR``, the ``include`` folder of a checkout of github.com/NVIDIA/TensorRT at v8.6.0 or v8.6.1.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paths import BUILD, TESTS
from plugin_in_tensorrt_8 import RIGHT

from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.build import PluginBuild, build_plugin, find_headers
from tokfilter.kernels.op import ATTRIBUTES, DOMAIN, NAME
from tokfilter.kernels.op import VERSION as OP_VERSION
from tokfilter.kernels.tensorrt_headers import plugin_class, series, version_of_headers

SCRIPT = TESTS / "tools" / "plugin_in_tensorrt_8.py"


@pytest.fixture(scope="module")
def tensorrt() -> Path:
    """The folder of a TensorRT 8.6."""
    named = os.environ.get("TOKFILTER_TENSORRT8")
    if not named:
        pytest.skip("TOKFILTER_TENSORRT8 names no folder of TensorRT 8.6 (lib/, site/, python/): make tensorrt")
    folder = Path(named).resolve()
    assert (folder / "lib" / "libnvinfer.so.8").is_file(), f"TOKFILTER_TENSORRT8={named} has no lib/libnvinfer.so.8"
    return folder


@pytest.fixture(scope="module")
def library(tensorrt: Path) -> PluginBuild:
    """Built as a user does, for one architecture, against the real libnvinfer.so.8."""
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    if not named or series(version_of_headers(Path(named))) != "8.6":
        pytest.skip(
            "needs headers of TensorRT 8.6, which no package ships: git clone --depth 1 --branch v8.6.1 "
            "https://github.com/NVIDIA/TensorRT, then TENSORRT_INCLUDE_DIR=TensorRT/include"
        )
    try:
        return build_plugin(
            BUILD / "kernels-tests" / "real-8.6",
            architectures="90",
            options=[f"-DTENSORRT_LIBRARY_DIR={tensorrt / 'lib'}"],
        )
    except MissingDependencyError as error:
        pytest.skip(str(error))


def run(tensorrt: Path, command: str, library: Path) -> tuple[dict[str, Any], str]:
    """What the script saw, and what was printed on stderr."""
    python = next(iter(sorted((tensorrt / "python" / "bin").glob("python3.*[0-9]"))))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"LD_LIBRARY_PATH": str(tensorrt / "lib"), "PYTHONPATH": str(tensorrt / "site")}
    result = subprocess.run(
        [str(python), str(SCRIPT), command, str(library)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout), result.stderr


def assert_plugin(seen: dict[str, Any], printed: str) -> None:
    assert seen["tensorrt"].startswith("8.6.")
    assert seen["found"] and not seen["unnamed"]
    assert seen["identity"] == [DOMAIN, NAME, OP_VERSION]
    assert seen["fields"] == [["k", "INT32", 1], ["prefix_tokens", "INT32", 1], ["order", "CHAR", 8]]
    assert [name for name, _, _ in seen["fields"]] == list(ATTRIBUTES)
    assert seen["plugin"] == [DOMAIN, NAME, OP_VERSION, 2]
    assert seen["bytes"]["defaults"] == seen["bytes"]["creator's own"] == "01000000000000000100000000000000"
    assert seen["bytes"]["fixed"] == "01000000620000000100000000000000"
    assert seen["bytes"]["all"] == seen["read again"] == seen["clone"] == RIGHT.hex()
    assert (seen["created in spite of"], seen["read in spite of"]) == ([], [])
    for message in (
        '"filter": attribute k expects a value from 0 to 2147483647, got -98.',
        '"filter": attribute order expects "position" or "score", got "random".',
        '"filter": attribute k expects one integer (kINT32 or kINT64), got a field of type kCHAR.',
        '"filter": no attribute is called "keep"; known are k, prefix_tokens and order.',
        '"engine": expects 16 bytes in the engine, got 0.',
        '"engine": expects 16 bytes in the engine, got 15.',
        '"engine": expects 16 bytes in the engine, got 17.',
        '"engine": expects data of format 1 in the engine, got 2.',
        '"engine": expects k >= 0, prefix_tokens >= 0 and order 0 or 1 in the engine, got -1, 5 and 1.',
    ):
        assert f"tokfilter::TokenSelect {message}" in printed


def test_registry_loads_the_library(tensorrt: Path, library: PluginBuild) -> None:
    assert library.dynamic is not None
    seen, printed = run(tensorrt, "load", library.dynamic)
    assert seen["loaded"]
    assert_plugin(seen, printed)


def test_the_self_registering_library_is_found_after_dlopen(tensorrt: Path, library: PluginBuild) -> None:
    assert library.self_registering is not None
    assert_plugin(*run(tensorrt, "dlopen", library.self_registering))


def test_a_library_for_tensorrt_10_says_what_it_is(tensorrt: Path) -> None:
    with pytest.MonkeyPatch.context() as context:
        context.delenv("TENSORRT_INCLUDE_DIR", raising=False)
        try:
            headers = find_headers(fetch=True)
            version = version_of_headers(headers)
            if plugin_class(version) != "IPluginV3":
                pytest.skip(f"the headers of this machine are of TensorRT {version}")
            built = build_plugin(BUILD / "kernels-tests" / f"nvcc-{series(version)}", headers, "90")
        except MissingDependencyError as error:
            pytest.skip(str(error))
    assert built.dynamic is not None
    seen, printed = run(tensorrt, "load", built.dynamic)
    assert (seen["loaded"], seen["found"]) == (False, False)
    assert f"this library is built for TensorRT {version} and is loaded by TensorRT 8.6. Build it" in printed
