"""Step ``library``: the C++ library's answers are those of the Python session, bit for bit, from the same engine."""

import subprocess
from pathlib import Path
from typing import Final

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import (
    budgets_of_job,
    build_engines,
    check_all,
    engine_folder,
    speed_jobs,
)
from tokfilter.benchmarks.gpu_proof.probe import last_line
from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.benchmarks.gpu_proof.worker_process import ask
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.kernels.build import wheel_libraries

__all__ = ["run"]

_BATCH: Final = 8


def run(context: Context, name: str) -> None:
    """Emits a record ``answers`` for each budget. Raises EngineError where the library does not build or run."""
    model = context.settings.model(name)
    library = context.settings.library or _built(context)
    plugin = context.has("prepared plugin")
    jobs = speed_jobs(context, name, [_BATCH], plugin, model.compared)
    ready = build_engines(context, jobs)
    for built in ready:
        request = {
            "directory": str(engine_folder(context, built)),
            "library": str(library),
            "role": built.role,
            "precision": "fp16",
            "batch": _BATCH,
            "budgets": budgets_of_job(context, built, model.compared),
        }
        for found in ask(context, "library_worker", request)["answers"]:
            context.emit("answers", engine=built.name, batch=_BATCH, **found)
    check_all(jobs, ready)


def _built(context: Context) -> Path:
    """Build runtime/cpp against TensorRT's headers and library. Raises MissingDependencyError, EngineError."""
    context.need("cmake", "headers")
    folder = context.settings.work / "cpp"
    options = [f"-DTENSORRT_INCLUDE_DIR={context.found['headers']['found']}", "-DTOKFILTER_CPP_EXAMPLES=OFF"]
    options += [f"-DTENSORRT_LIBRARY={path}" for path in _tensorrt_libraries(context.settings)]
    cmake = str(context.found["cmake"]["found"])
    source = str(ROOT / "runtime" / "cpp")
    for command in ([cmake, "-S", source, "-B", str(folder), *options], [cmake, "--build", str(folder), "--parallel"]):
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode != 0:
            raise EngineError(f"the C++ library was not built: {_reason(result)}. See runtime/cpp/README.md.")
    return folder / "libtokfilter.so"


def _reason(result: "subprocess.CompletedProcess[str]") -> str:
    """What CMake did not find, else the first error, else the last line."""
    lines = [line.strip().rstrip(".") for line in (result.stderr + result.stdout).splitlines()]
    for word in ("Could NOT find", "Could not find", "error"):
        for line in lines:
            if word in line:
                return line
    return last_line(result.stderr)


def _tensorrt_libraries(settings: Settings) -> list[Path]:
    """libnvinfer beside TensorRT's own Python or in its wheel, one path; none where CMake is to find it.

    Raises MissingDependencyError.
    """
    folder = wheel_libraries() if settings.tensorrt8 is None else settings.tensorrt8 / "lib"
    if folder is None:
        return []
    found = sorted(folder.glob("libnvinfer.so.*"))
    if not found:
        raise MissingDependencyError(f"{folder} has no libnvinfer.so to link the C++ library to.")
    return found[:1]
