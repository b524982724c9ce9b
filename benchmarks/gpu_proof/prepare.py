"""Graphs and golden tensors of the models, and the plugin library: all that needs no GPU."""

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Final

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of, int8_graphs_of, tensorrt_version
from tokfilter.benchmarks.gpu_proof.probe import last_line
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.errors import EngineError, MissingDependencyError, TokfilterError
from tokfilter.export.options import Precision
from tokfilter.kernels.build import build_plugin

__all__ = ["PRECISIONS", "bundle_of", "ensure_graphs", "ensure_int8_graphs", "graphs_key", "run"]

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")
_SOURCES: Final = ("artifacts", "export", "kernels", "trt", "vit")
_WORKERS: Final = {"fp32": "export_worker", "int8": "int8_worker"}
"""Precision -> the module that exports it; the first one exports fp16 too."""

_OWN: Final = ("engine_graphs.py", *(f"{name}.py" for name in _WORKERS.values()))
_KEY: Final = "key.txt"


def bundle_of(settings: Settings, model: str) -> Path:
    """model.pt of a model."""
    return settings.work / "graphs" / f"{model}.pt"


def run(context: Context) -> None:
    """The first model's graphs and the plugin library at the same time; ``ensure_graphs`` makes the others' later.

    Raises the first error at the end, but for a missing part.
    """
    model = context.settings.models[0]
    with ThreadPoolExecutor(1) as pool:
        exported = pool.submit(ensure_graphs, context, model.name)
        started = perf_counter()
        path, failure = None, None
        try:
            path = _plugin(context)
        except TokfilterError as error:
            failure = error
        _emit(context, "plugin", path, failure, started)
        exported.result()
    if failure is not None and not isinstance(failure, MissingDependencyError):
        raise failure


def ensure_graphs(context: Context, name: str) -> None:
    """Export a model in a process of its own, unless an earlier export has the same sources and settings.

    Emits a record ``prepared`` where graphs were made, or could not be. Raises EngineError.
    """
    _ensure(context, name, "fp32")


def ensure_int8_graphs(context: Context, name: str) -> None:
    """The same of a model's int8 graphs, which are made from its model.pt: call ``ensure_graphs`` before."""
    _ensure(context, name, "int8")


def _ensure(context: Context, name: str, precision: str) -> None:
    settings, version = context.settings, tensorrt_version(context.found)
    model, started = settings.model(name), perf_counter()
    folder, key = _folder(settings, name, precision), _digest(model, version)
    part = name if precision == "fp32" else f"{name} in {precision}"
    if graphs_key(settings, name, precision) == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", f"tokfilter.benchmarks.gpu_proof.{_WORKERS[precision]}"]
    words = [settings.text(), name, version]
    result = subprocess.run([*command, *words], capture_output=True, text=True, errors="replace", check=False)
    failure = None
    if result.returncode == 0:
        with atomic_path(folder / _KEY) as file:
            file.write_text(key, encoding="utf-8")
    else:
        failure = EngineError(f"{model.architecture} was not exported ({precision}): {last_line(result.stderr)}")
    _emit(context, part, folder.name, failure, started)
    if failure is not None:
        raise failure


def _folder(settings: Settings, name: str, precision: str) -> Path:
    return (int8_graphs_of if precision == "int8" else graphs_of)(settings, name)


def graphs_key(settings: Settings, name: str, precision: str = "fp32") -> str:
    """Digest of what the graphs of a model were made from; empty where there are none."""
    try:
        return (_folder(settings, name, precision) / _KEY).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _emit(context: Context, part: str, path: str | None, failure: Exception | None, started: float) -> None:
    error = None if failure is None else str(failure)
    seconds = round(perf_counter() - started, 1)
    context.emit("prepared", part=part, path=None if failure else path, error=error, seconds=seconds)


def _plugin(context: Context) -> str:
    """Build the plugin library for this GPU, or for every one where there is none. Raises MissingDependencyError."""
    settings = context.settings
    target = settings.work / "plugin"
    if settings.plugin is not None:
        return str(settings.plugin)
    context.need("nvcc", "cmake", "headers")
    headers = Path(context.found["headers"]["found"])
    # CMake before 3.24 does not know "native". The record ends with the compute capability, such as 8.7.
    architectures = context.found["gpu"]["found"].rpartition(" ")[2].replace(".", "") if context.has("gpu") else None
    built = build_plugin(target, tensorrt=headers, architectures=architectures)
    return str(built.dynamic)


def _digest(model: ModelSpec, version: str) -> str:
    """Of the model, TensorRT's version, and the sources that the graphs depend on."""
    digest = hashlib.sha256(repr((model, version)).encode())
    own = [Path(__file__).with_name(name) for name in _OWN]
    for path in [*own, *sorted(path for folder in _SOURCES for path in (ROOT / folder).rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
