"""Which commands run on this machine, and how to install what the others need. Nothing is changed or downloaded."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tokfilter import __version__
from tokfilter.artifacts.extras import extra_of_module, install_hint
from tokfilter.commands.cpu_advice import advice_from_features
from tokfilter.errors import EngineError, MissingDependencyError, TokfilterError
from tokfilter.runtime.measure.cpu_features import cpu_features
from tokfilter.runtime.openvino_cache import model_cache

__all__ = ["Ability", "Finding", "machine_report"]


@dataclass(frozen=True)
class Finding:
    """A package, program or device that tokfilter uses.

    found: its version or name, None when it is missing
    remedy: the command or step that installs it
    """

    name: str
    found: str | None
    remedy: str = ""


@dataclass(frozen=True)
class Ability:
    """A command, or a group of them, and the parts without which it does not run here."""

    name: str
    missing: list[str]


_PARTS: Final = {
    "train, label, eval, predict of a bundle": ["torch", "torchvision", "timm", "pillow", "safetensors", "scipy"],
    "demo": ["torch", "timm", "scikit-learn", "onnx", "onnxscript", "onnxruntime", "matplotlib", "jinja2"],
    "export to ONNX": ["torch", "timm", "onnx", "onnxscript", "onnx-ir", "onnxruntime"],
    "export --rtx (no GPU needed)": ["torch", "onnx", "onnxscript", "tensorrt-rtx-cu13"],
    "export --trt": ["torch", "onnx", "onnxscript", "tensorrt", "NVIDIA GPU"],
    "engine --rtx (no GPU needed)": ["tensorrt-rtx-cu13"],
    "engine --trt": ["tensorrt", "NVIDIA GPU"],
    "verify, bench, tune on the CPU": ["onnxruntime"],
    "predict of an export, page": ["onnxruntime", "pillow"],
    "serve": ["onnxruntime", "pillow", "fastapi", "uvicorn", "httptools", "prometheus-client"],
    "verify, bench, tune with OpenVINO": ["openvino"],
    "verify, bench, tune on TensorRT": ["tensorrt", "pycuda", "NVIDIA GPU"],
    "bench --loadgen": ["onnxruntime", "mlcommons-loadgen"],
    "energy of a discrete GPU": ["nvidia-ml-py", "NVIDIA GPU"],
    "report": ["matplotlib", "jinja2", "jsonschema"],
    "triton-repo": ["onnx", "onnx-ir", "tritonclient"],
    "deepstream, fuse, inline": ["onnx", "onnx-ir", "onnxruntime"],
    "plugin build": ["CUDA compiler", "C++ compiler", "CMake"],
}
"""Ability -> the parts that it needs. The extra that installs a package is read from tokfilter's own metadata."""


def machine_report() -> dict[str, Any]:
    """Look for every part. Returns plain values: "system", "findings" by group, "abilities", "cpu"."""
    tools = [
        _program("C++ compiler", ["g++", "clang++"], "apt-get install g++"),
        _program("CMake", ["cmake"], "pip install cmake"),
        _program(
            "CUDA compiler", ["nvcc", "/usr/local/cuda/bin/nvcc"], "install the CUDA Toolkit, or JetPack on a Jetson"
        ),
    ]
    devices = [_gpu(), _providers(), _model_cache()]
    other_parts = {finding.name for finding in (*tools, *devices)}
    packages = dict.fromkeys(part for parts in _PARTS.values() for part in parts if part not in other_parts)
    groups = {"packages": [_package(name) for name in packages], "tools": tools, "devices": devices}
    present = {finding.name for group in groups.values() for finding in group if finding.found}
    abilities = [Ability(name, [part for part in parts if part not in present]) for name, parts in _PARTS.items()]
    return {
        "system": _system(),
        "findings": {name: [asdict(finding) for finding in group] for name, group in groups.items()},
        "abilities": [asdict(ability) for ability in abilities],
        "cpu": asdict(advice_from_features(cpu_features(), "openvino" in present)),
    }


def _system() -> dict[str, Any]:
    return {
        "tokfilter": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "executable": Path(sys.executable).name,
        "jetson": _first_line(Path("/etc/nv_tegra_release")),
    }


def _first_line(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").splitlines()[0] if path.is_file() else None


_OTHER_NAMES: Final = {
    "onnxruntime": ["onnxruntime-gpu"],
    "tensorrt": ["tensorrt-cu12", "tensorrt-cu13"],
    "tensorrt-rtx-cu13": ["tensorrt-rtx-cu12", "tensorrt-rtx"],
}
"""Package -> other packages that install the same module, such as the build for GPUs."""


def _package(name: str) -> Finding:
    if name == "tensorrt" and find_spec(name) is not None:
        return _tensorrt()
    for candidate in [name, *_OTHER_NAMES.get(name, [])]:
        try:
            return Finding(name, version(candidate))
        except PackageNotFoundError:
            continue
    extra = extra_of_module(name)
    return Finding(name, None, install_hint(extra) if extra else f"pip install {name}")


def _tensorrt() -> Finding:
    """TensorRT by importing it: its version decides how engines are built, and one for another Python does not load."""
    from tokfilter.trt.module import tensorrt_module
    from tokfilter.trt.versions import way_of

    try:
        module = tensorrt_module("tensorrt")
        way = way_of(module)
    except (MissingDependencyError, EngineError) as error:
        return Finding("tensorrt", None, str(error))
    if not way.python:
        return Finding("tensorrt", None, f"{module.__version__} builds with trtexec: docs/tensorrt-8.md")
    return Finding("tensorrt", f"{module.__version__} (graphs: {way.graph}, plugin: {way.plugin})")


def _program(name: str, candidates: list[str], remedy: str) -> Finding:
    for candidate in candidates:
        path = shutil.which(candidate)
        if path:
            return Finding(name, _version_line(path))
    return Finding(name, None, remedy)


def _version_line(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    with_release = [line for line in lines if "release" in line]  # nvcc: in the fourth line
    return (with_release or lines or [path])[0].strip()


def _gpu() -> Finding:
    """From the driver's C library, so that it is found where neither nvidia-ml-py nor torch is installed."""
    remedy = "install the NVIDIA driver on a machine with an NVIDIA GPU"
    return Finding("NVIDIA GPU", _or_none(_gpu_name), remedy)


def _gpu_name() -> str | None:
    from tokfilter.runtime.cuda_bindings import cuda_driver

    driver = cuda_driver()
    count, name, release = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDriverGetVersion(ctypes.byref(release))
    more = f" and {count.value - 1} more" if count.value > 1 else ""
    return f"{name.value.decode()}{more}, driver for CUDA {release.value // 1000}.{release.value % 1000 // 10}"


def _providers() -> Finding:
    return Finding("ONNX Runtime providers", _or_none(_provider_names), install_hint("runtime"))


def _model_cache() -> Finding:
    """Where OpenVINO's compiled models are kept, or why they are not: then every process compiles them again."""
    cache = model_cache()
    found = None if cache.folder is None else str(cache.folder)
    return Finding("OpenVINO model cache", found, f"off: {cache.off}; set XDG_CACHE_HOME to a writable folder")


def _provider_names() -> str | None:
    import onnxruntime

    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return ", ".join(names)


def _or_none(probe: Callable[[], str | None]) -> str | None:
    """The result of ``probe``; None where a library is absent, does not load or finds no device."""
    try:
        return probe()
    except (ImportError, OSError, AttributeError, TokfilterError):
        return None
