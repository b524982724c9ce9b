"""ONNX files: written (weights beyond protobuf's 2 GiB go to a file beside the graph), read with a sentence for what is
no graph, and opened in ONNX Runtime."""

import tempfile
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import ExportError

__all__ = ["LARGEST_PROTO", "cpu_session", "load_graph", "save_graph"]

LARGEST_PROTO: Final = 2**31 - 2**24  # bytes of weights; the rest of the 2 GiB is for the graph itself


def save_graph(graph: ir.Model, path: Path, limit: int = LARGEST_PROTO) -> list[Path]:
    """Write ``graph`` to ``path``. Returns the files written: the graph, and its weights when they exceed ``limit``."""
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    if size <= limit:
        ir.save(graph, path)
        return [path]
    weights = path.with_name(f"{path.name}.data")
    ir.save(graph, path, external_data=weights.name)
    return [path, weights]


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
    try:
        graph = ir.load(path)
    except Exception as error:  # protobuf, the file system and onnx-ir each raise their own kinds
        raise ExportError(
            f"{path} is no ONNX graph that can be read: it is damaged, cut short or something else."
        ) from error
    if not len(graph.graph) and not graph.graph.outputs:
        raise ExportError(f"{path} is no ONNX graph that can be read: it has neither nodes nor outputs.")
    return graph


def cpu_session(path: Path, precision: str | None) -> Any:
    """``path`` in ONNX Runtime on the CPU; a bf16 graph as its rounded twin, because no CPU kernels take bf16."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Spinning threads would starve torch, which computes the reference in the same process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if precision != "bf16":
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    from tokfilter.export.precision import emulate_bf16  # a machine that only builds engines lacks onnxscript

    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        twin = Path(scratch) / path.name
        save_graph(emulate_bf16(load_graph(path)), twin)
        return onnxruntime.InferenceSession(str(twin), options, providers=providers)
