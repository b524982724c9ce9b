"""The one reader and writer of ONNX files, and their session in ONNX Runtime.

Neither torch nor onnxscript is needed here, except to emulate fp16 and bf16: an edge device builds engines from graphs
that were written elsewhere.
"""

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx
import onnx.checker
import onnx_ir as ir

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import ExportError
from tokfilter.export.graph_limits import check_limits

__all__ = [
    "SINGLE_FILE_BYTES",
    "check_graph_file",
    "cpu_session",
    "emulated_session",
    "load_graph",
    "reason_of",
    "save_graph",
    "value_named",
    "weight_bytes",
]

SINGLE_FILE_BYTES: Final = 2**31 - 2**24
"""Weights in bytes that fit into the one protobuf message beside the graph; more go to a file of their own."""

_LARGEST_FILE: Final = 1 << 31
"""Bytes of a protobuf message."""


def save_graph(
    graph: ir.Model, path: Path, single_file_bytes: int = SINGLE_FILE_BYTES, hashed: bool = False
) -> list[Path]:
    """Write ``graph`` to ``path``. Returns the files written: the graph, and its weights where they are external.

    hashed: put a hash of the weights into the name of their file, so that a graph is never read with other weights
    """
    with _untyped_weights(graph):
        if weight_bytes(graph) <= single_file_bytes:
            ir.save(graph, path, format="protobuf")
            return [path]
        digest = f".{_weights_hash(graph)}" if hashed else ""
        weights = path.with_name(f"{path.name}{digest}.data")
        ir.save(graph, path, format="protobuf", external_data=weights.name)
    return [path, weights]


@contextmanager
def _untyped_weights(graph: ir.Model) -> Iterator[None]:
    """Without types and notes of initializers: onnx-ir writes value_info for them, which ORT's quantizers refuse.

    The notes, names of the exporter's, are not put back.
    """
    weights = [value for value in graph.graph.initializers.values() if not value.is_graph_input()]
    known = [(value, value.type, value.shape) for value in weights]
    for value in weights:
        value.type = value.shape = value.doc_string = None
        value.metadata_props.clear()
    try:
        yield
    finally:
        for value, kind, shape in known:
            value.type, value.shape = kind, shape


def load_graph(path: str | Path) -> ir.Model:
    """Read an ONNX file. Raises DataError when there is none, ExportError when it is not one."""
    path = existing_file(path, "a graph (.onnx)")
    with path.open("rb") as file:
        start = file.read(8)
    if start[:4] in (b"ftrt", b"ptrt") or path.suffix in (".plan", ".engine", ".trt"):
        raise ExportError(f"{path} is an engine plan, not an ONNX graph: give the .onnx file that it was built from.")
    if start[:4] == b"PK\x03\x04":
        raise ExportError(
            f"{path} is an archive (a bundle?), not an ONNX graph: `tokfilter export` makes graphs of bundles."
        )
    size = path.stat().st_size
    if size > _LARGEST_FILE or not start.strip(b"\0"):
        raise ExportError(
            f"{path} is no ONNX graph that can be read: expected one protobuf message of at most 2 GiB, got "
            f"{size} bytes."
        )
    try:
        with _quiet_onnx_ir():
            graph = ir.load(path)
    except Exception as error:  # protobuf, the file system and onnx-ir each raise their own kinds
        raise ExportError(
            f"{path} is no ONNX graph that can be read: it is damaged, cut short or something else."
        ) from error
    if not len(graph.graph) and not graph.graph.outputs:
        raise ExportError(f"{path} is no ONNX graph that can be read: it has neither nodes nor outputs.")
    check_limits(graph, path.name)
    return graph


@contextmanager
def _quiet_onnx_ir() -> Iterator[None]:
    """Without onnx-ir's warnings, which hold names from the file as they are; ``check_limits`` says what is wrong."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_graph_file(path: Path) -> None:
    """Run ONNX's checker on a file and its external weights. Raises ExportError."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ExportError(f"{path.name} is no valid ONNX model: {error}") from error


def weight_bytes(graph: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)


def _weights_hash(graph: ir.Model) -> str:
    digest = hashlib.sha256()
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()[:16]


def cpu_session(path: Path, precision: str | None, for_cuda: bool = False) -> Any:
    """``path`` in ONNX Runtime on the CPU. A bf16 graph is emulated in fp32: no CPU kernels take bf16.

    An int8 graph has 32-bit sums on every CPU (runtime/measure/cpu_features.py), which may be slower than in a session.
    A fp8 graph runs as written: QuantizeLinear and DequantizeLinear around an fp32 product, as ONNX Runtime 1.31 fuses
    them to an operator that takes no float8.

    for_cuda: the graph has contrib ops (``export/onnxruntime_cuda.py``), whose CPU kernels take fp32 only
    """
    if precision == "fp8":
        return _session(path, {"session.disable_quant_qdq": "1"})
    if precision == "int8":
        return _session(path, {"session.x64quantprecision": "1"})
    emulated = precision == "bf16" or (precision == "fp16" and for_cuda)
    return emulated_session(path) if emulated else _session(path)


def emulated_session(path: Path) -> Any:
    """``path``, a graph in fp16 or bf16, in ONNX Runtime on the CPU as an fp32 graph that rounds where it does."""
    from tokfilter.export.emulation import emulate_low_precision  # needs onnxscript

    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        emulated = Path(scratch) / path.name
        save_graph(emulate_low_precision(load_graph(path)), emulated)
        return _session(emulated)


def _session(path: Path, entries: Mapping[str, str] | None = None) -> Any:
    """entries: more of ONNX Runtime's configuration."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what stops it is raised
    # Spinning threads would slow torch, which computes the reference in the same process.
    entries = {"session.intra_op.allow_spinning": "0", **(entries or {})}
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class for each of its status codes, and no common one
        raise ExportError(f"ONNX Runtime does not take {path.name}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """The first line of another library's error, in at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def value_named(values: Iterable[ir.Value], name: str, kind: str) -> ir.Value:
    """The input or output of a graph that has a name. Raises ExportError where there is none.

    kind: "input" or "output", for the message
    """
    known = {value.name: value for value in values}
    if name not in known:
        others = ", ".join(map(str, known)) or "none"
        raise ExportError(f"the graph must have an {kind} {name}, got {others}. Export again.")
    return known[name]
