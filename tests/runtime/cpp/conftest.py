"""Builds of runtime/cpp for its tests: over fake TensorRT, and linked to the real TensorRT-RTX."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from emulated import emulated
from paths import ROOT
from PIL import Image

from tokfilter.artifacts.manifest import NAME, Manifest, ModelCard, ModelOutput, entry_from_file
from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.build import fetch_headers, find_headers, find_tool

SOURCE = ROOT / "runtime" / "cpp"
NATIVE = ROOT / "tests" / "runtime" / "cpp" / "native"
BUILD = ROOT / "build" / "runtime-cpp"

Build = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


def _built(name: str, *options: str, source: Path = SOURCE) -> Path:
    """Configure and build the CMake project in a folder of build/; return the folder."""
    folder, cmake = BUILD / name, find_tool("cmake", hint="pip install cmake")
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (["-S", source, "-B", folder, *ninja, *options], ["--build", folder, "--parallel", "2"]):
        result = subprocess.run([cmake, *map(str, command)], capture_output=True, text=True, check=False)
        missing = re.search(r"Could not find|Could NOT find", result.stderr)
        if missing and "CMake Error" in result.stderr and not os.environ.get("CI"):
            pytest.skip(f"a build dependency of runtime/cpp/README.md is not installed: {result.stderr[-600:]}")
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return folder


@pytest.fixture(scope="session")
def build() -> Build:
    """Configures and builds a CMake project in a folder of build/: ``build(name, *options, source=...)``."""
    return _built


@pytest.fixture(scope="session")
def headers() -> Path:
    with pytest.MonkeyPatch.context() as context:
        context.delenv("TENSORRT_INCLUDE_DIR", raising=False)  # those are _other_headers()
        try:
            return find_headers()
        except MissingDependencyError:
            pass
        try:
            return fetch_headers()
        except MissingDependencyError as error:
            pytest.skip(f"no TensorRT headers: {error}")


def _other_headers() -> Path:
    """The headers that TENSORRT_INCLUDE_DIR names: no package ships those of TensorRT 8.x."""
    if not (named := os.environ.get("TENSORRT_INCLUDE_DIR")):
        pytest.skip(
            "TENSORRT_INCLUDE_DIR is not set. For TensorRT 8.5, 8.6 or another version: "
            "git clone --depth 1 --branch v8.6.1 https://github.com/NVIDIA/TensorRT, and name its folder include"
        )
    folder = Path(named).resolve()
    assert (folder / "NvInferRuntime.h").is_file(), f"TENSORRT_INCLUDE_DIR={named} has no NvInferRuntime.h"
    return folder


def _version(headers: Path) -> str:
    """Version of TensorRT's headers, such as "8.6"."""
    numbers = re.findall(
        r"define (?:NV_TENSORRT|TRT)_(?:MAJOR|MINOR)\w* +(\d+)", (headers / "NvInferVersion.h").read_text()
    )
    return ".".join(numbers[:2])


@pytest.fixture(scope="session", params=["found", "TENSORRT_INCLUDE_DIR"])
def fake(request: pytest.FixtureRequest) -> Path:
    """Library, examples and tests over fake TensorRT and fake CUDA, under sanitizers, for each version at hand."""
    if programs := emulated(request.config, "cpp"):
        if request.param != "found":
            pytest.skip("the emulated programs are of one version of the headers")
        return programs
    folder = request.getfixturevalue("headers") if request.param == "found" else _other_headers()
    return _built(f"sanitized-{_version(folder)}", f"-DTENSORRT_INCLUDE_DIR={folder}", source=NATIVE)


@pytest.fixture(scope="session")
def linked(pytestconfig: pytest.Config, headers: Path) -> Path:
    """Library and examples linked to the real TensorRT-RTX and the real CUDA runtime."""
    if programs := emulated(pytestconfig, "linked"):
        return programs
    libraries = pytest.importorskip("tensorrt_rtx_libs", reason="needs the wheel tensorrt-rtx-cu13")
    library = next(Path(next(iter(libraries.__path__))).glob("libtensorrt_rtx.so*"))
    quick = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0")
    options = (*quick, f"-DTENSORRT_INCLUDE_DIR={headers}", f"-DTENSORRT_LIBRARY={library}")
    return _built("linked", *options)


@pytest.fixture(scope="session")
def exported(bundle_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export directory of `tokfilter export --rtx`: a TensorRT-RTX engine, built without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs the wheel tensorrt-rtx-cu13, whose builder runs without a GPU")
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    out = tmp_path_factory.mktemp("export") / "out"
    export_bundle(bundle_file, out, ExportOptions(rtx=True, verify=False, batch_range=(1, 2, 4)))
    return out


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120
    )


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a program with its output as text; keywords are environment variables."""
    return _run


def _directory(path: Path, embeds: bool = False, **plan: object) -> Path:
    """Write an export directory with Python's own writers: one plan of the fake model, 8 x 6 pixels.

    embeds: the model gives an embedding of 5 numbers in place of logits
    """
    path.mkdir(exist_ok=True)
    profile = {"batch": [1, 2, 4], "budget": [2, 6, 12]}
    fake_plan = {"size": [8, 6], "classes": 5, "patches": 12, "profiles": [profile], **plan}
    output, names = None, ["ant", "bee", "cat", "dog", "eel"]
    if embeds:
        output, names, fake_plan["logits"] = ModelOutput("embedding", (5,)), [], "embedding"
    (path / "model.plan").write_text(json.dumps(fake_plan))
    details = {"batch_range": (1, 2, 4), "budget_range": (2, 6, 12), "precision": "fp32", "runtime": "tensorrt"}
    entry = entry_from_file(path, "model.plan", "filtered", **details)
    fields = {"input_size": (3, 8, 6), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    card = ModelCard("vit", (3, 8, 6), 12, 1, 5, names, 6, {"full": 1}, fields, output=output)
    manifest = Manifest(card, [entry], {"name": "model.pt", "sha256": "0" * 64}, 18, {}, {}, "2026-01-01")
    (path / NAME).write_text(manifest.text())
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory for fake TensorRT; keywords change the plan (fake_tensorrt/runtime/plan.hpp)."""
    return lambda **plan: _directory(tmp_path / "out", **plan)


def _png(value: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (6, 8), (value,) * 3).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """Bytes of a PNG file of one grey level: the fake model classifies white as "eel" and black as "ant"."""
    return _png
