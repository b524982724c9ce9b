"""Graphs and golden tensors of each model, and the plugin library: all that needs no GPU, at the same time."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Final

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of, tensorrt_version
from tokfilter.benchmarks.gpu_proof.probe import last_line
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.errors import EngineError, MissingDependencyError, TokfilterError
from tokfilter.export.options import Precision
from tokfilter.kernels.build import build_plugin

__all__ = ["PRECISIONS", "bundle_of", "run"]

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")
_SOURCES: Final = ("artifacts", "export", "kernels", "trt", "vit")
_OWN: Final = ("engine_graphs.py", "export_worker.py")
_KEY: Final = "key.txt"


def bundle_of(settings: Settings, model: str) -> Path:
    """model.pt of a model."""
    return settings.work / "graphs" / f"{model}.pt"


def run(context: Context) -> None:
    """Emit a record ``prepared`` for each model's graphs and for the plugin library; raises the first error at the end.

    Each model is exported in a process of its own.
    """
    tasks: dict[str, Callable[[], str]] = {
        model.name: lambda model=model: _exported(context, model)  # type: ignore[misc]
        for model in context.settings.models
    }
    failures = []
    with ThreadPoolExecutor(len(tasks) + 1) as pool:
        started = perf_counter()
        futures = {pool.submit(task): name for name, task in {**tasks, "plugin": lambda: _plugin(context)}.items()}
        for future in as_completed(futures):
            path, error = None, None
            try:
                path = future.result()
            except TokfilterError as failure:
                error = str(failure)
                if not isinstance(failure, MissingDependencyError):
                    failures.append(failure)
            seconds = round(perf_counter() - started, 1)
            context.emit("prepared", part=futures[future], path=path, error=error, seconds=seconds)
    if failures:
        raise failures[0]


def _exported(context: Context, model: ModelSpec) -> str:
    """The export directory; an earlier one is used again if sources and settings are the same."""
    settings, version = context.settings, tensorrt_version(context.found)
    folder, key = graphs_of(settings, model.name), _digest(model, version)
    if not (folder / _KEY).is_file() or (folder / _KEY).read_text(encoding="utf-8") != key:
        shutil.rmtree(folder, ignore_errors=True)
        for stale in (settings.work / "engines").glob(f"{model.name}.*"):
            shutil.rmtree(stale)
        command = [sys.executable, "-m", "tokfilter.benchmarks.gpu_proof.export_worker"]
        words = [settings.text(), model.name, version]
        result = subprocess.run([*command, *words], capture_output=True, text=True, errors="replace", check=False)
        if result.returncode != 0:
            raise EngineError(f"{model.architecture} was not exported: {last_line(result.stderr)}")
        with atomic_path(folder / _KEY) as part:
            part.write_text(key, encoding="utf-8")
    return folder.name


def _plugin(context: Context) -> str:
    """Build the plugin library for this GPU, or for every one where there is none. Raises MissingDependencyError."""
    settings = context.settings
    target = settings.work / "plugin"
    if settings.plugin is not None:
        return str(settings.plugin)
    context.need("nvcc", "cmake", "headers")
    headers, architectures = Path(context.found["headers"]["found"]), "native" if context.has("gpu") else None
    built = build_plugin(target, tensorrt=headers, architectures=architectures)
    return str(built.dynamic)


def _digest(model: ModelSpec, version: str) -> str:
    """Of the model, TensorRT's version, and the sources that the graphs depend on."""
    digest = hashlib.sha256(repr((model, version)).encode())
    own = [Path(__file__).with_name(name) for name in _OWN]
    for path in [*own, *sorted(path for folder in _SOURCES for path in (ROOT / folder).rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
