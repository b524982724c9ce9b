"""The child process of baseline_speed, one per runtime: it compares a row with its golden logits, then times it."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

from tokfilter.artifacts.compare import TOLERANCES, compare_logits
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.benchmarks.study.baseline_models import FixedBudget, Row, model_of
from tokfilter.errors import MissingDependencyError, VerificationError
from tokfilter.runtime.openvino_engine import OpenVinoOptions, check_compiled, compile_properties, imported_openvino
from tokfilter.vit.bundle import load_bundle

__all__ = ["RUNTIMES", "PreparedRow", "Worker", "missing", "open_row", "seconds_per_call", "worker_process"]


@dataclass(frozen=True)
class PreparedRow:
    """A row with its cost and files.

    macs: multiply-accumulates for one image
    golden: images and expected logits (npz)
    graph: ONNX file, None if the row cannot be exported
    """

    row: Row
    macs: int
    golden: Path
    graph: Path | None


class Worker:
    """State of a child process: runtime (a key of RUNTIMES), bundle, and one callable for each open row."""

    runtime: str
    bundle: Path
    threads: int
    calls: dict[Row, Callable[[], Any]]

    @classmethod
    def start(cls, runtime: str, bundle: Path, threads: int) -> None:
        """Initialise the process."""
        cls.runtime, cls.bundle, cls.threads, cls.calls = runtime, bundle, threads, {}
        torch.set_num_threads(threads)


@contextmanager
def worker_process(runtime: str, bundle: Path, threads: int) -> Iterator[ProcessPoolExecutor]:
    """The process of a runtime."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, Worker.start, (runtime, bundle, threads)) as process:
        yield process


def missing(runtime: str) -> str:
    """Why a runtime cannot be measured here; empty where it can."""
    try:
        if runtime == "openvino":
            imported_openvino()
    except MissingDependencyError as error:
        return str(error)
    return ""


def open_row(entry: PreparedRow) -> float:
    """Build a row's model or session in this process and compare its logits with the golden ones.

    Returns the largest difference over the largest golden logit. Raises VerificationError.
    """
    with open_regular(entry.golden) as file:
        arrays = arrays_from_npz(file)
    images, expected = arrays["images"], arrays["logits"]
    call = RUNTIMES[Worker.runtime](entry, images)
    compared = compare_logits(np.asarray(call()), expected, TOLERANCES["fp32"])
    if compared.errors:
        raise VerificationError(
            f"{entry.row.name} in {Worker.runtime} differs from its golden logits: {'; '.join(compared.errors)}; "
            "it is not timed."
        )
    Worker.calls[entry.row] = call
    return compared.relative


def _torch_call(entry: PreparedRow, images: Any) -> Callable[[], Any]:
    module = FixedBudget(_model(Worker.bundle, entry.row.method), entry.row.tokens)
    tensor = torch.from_numpy(images)

    def call() -> Any:
        with torch.inference_mode():
            return module(tensor).numpy()

    return call


@cache
def _model(path: Path, method: str) -> Any:
    return model_of(method, load_bundle(path))


def _onnxruntime_call(entry: PreparedRow, images: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = Worker.threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(entry.graph), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"images": images})[0]


def _openvino_call(entry: PreparedRow, images: Any) -> Callable[[], Any]:
    core = imported_openvino().Core()
    model = core.read_model(str(entry.graph))
    model.reshape({"images": list(images.shape)})
    compiled = core.compile_model(model, "CPU", compile_properties(OpenVinoOptions(streams=1, threads=Worker.threads)))
    check_compiled(compiled, "fp32", str(entry.graph))
    request = compiled.create_infer_request()
    return lambda: request.infer({"images": images}, share_inputs=True)["logits"]


RUNTIMES: Final[dict[str, Callable[[PreparedRow, Any], Callable[[], Any]]]] = {
    "torch": _torch_call,
    "onnxruntime": _onnxruntime_call,
    "openvino": _openvino_call,
}
"""Name of a runtime -> (row, images) -> a call that gives the logits. PyTorch runs the module, the others its graph."""


def seconds_per_call(row: Row, seconds: float) -> float:
    """Run a row for ``seconds``, at least once, after one untimed call that warms the caches."""
    call = Worker.calls[row]
    call()
    begin, calls = perf_counter(), 0
    while calls == 0 or perf_counter() - begin < seconds:
        call()
        calls += 1
    return (perf_counter() - begin) / calls
