"""Steps of a run on a GPU that need none: what the tests of ``benchmarks/gpu_proof`` start as child processes."""

import os
import subprocess
import time
from pathlib import Path

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.errors import MissingDependencyError, VerificationError

BUILD = {
    "engine": "e",
    "batch": [1, 1, 1],
    "precision": "fp16",
    "bytes": 1,
    "error": None,
    "seconds": 0.1,
    "builders": 1,
}
VERDICT = {"engine": "e", "precision": "fp16", "batch": 1, "tokens": 8}


def good(context: Context, name: str = "e") -> None:
    """Two results."""
    context.emit("build", **{**BUILD, "engine": name})
    figures = {"compared": "logits", "largest_difference": 0.001, "tolerance": 0.02, "same_top1": 1.0}
    context.emit("verdict", **VERDICT, passed=True, error=None, **figures, same_indices=1.0)


def wrong(context: Context) -> None:
    """A comparison that fails; the step itself ends well."""
    context.emit("verdict", **VERDICT, passed=False, error="e differs by 0.5")


def failing(context: Context) -> None:
    """A result, then an error of ours."""
    context.emit("build", **BUILD)
    raise VerificationError("the engine is of another model")


def raising(context: Context) -> None:
    """An error that nobody expected."""
    raise ValueError("a list index")


def crashing(context: Context) -> None:
    """A result, then the process dies, as a library that aborts."""
    context.emit("build", **BUILD)
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os._exit(134)


def missing(context: Context) -> None:
    """A part that this machine does not have."""
    context.emit("found", part="nvcc", missing="no nvcc: install the CUDA toolkit.")
    raise MissingDependencyError("no nvcc: install the CUDA toolkit.")


def device(context: Context) -> None:
    """The first use of the device."""
    context.emit("build", **BUILD)
    context.device("TensorRT's builder selects kernels", "tensorrt")


def endless(context: Context) -> None:
    """A result, then a worker of its own that does not end, nor does the step."""
    worker = subprocess.Popen(["sleep", "1000"])
    Path(context.settings.work, "worker.pid").write_text(str(worker.pid))
    context.emit("build", **BUILD)
    time.sleep(1000)
