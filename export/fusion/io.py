"""A foreign ONNX file is read and checked; the fused one is written so that an old file survives any failure."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx.version_converter
import onnx_ir as ir

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node
from tokfilter.export.onnx_file import SINGLE_FILE_BYTES, check_graph_file, load_graph, save_graph, weight_bytes
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.versions import IR_VERSION

__all__ = ["read_foreign_graph", "write_fused_graph"]

_OLDEST_OPSET: Final = 11
# A function may read an attribute as a number (Constant's value_int) from 12 on.
_FUNCTION_OPSET: Final = 12
_IR_VERSIONS: Final = (8, IR_VERSION)  # ONNX functions exist since 8


def read_foreign_graph(path: Path, verb: str = "fuse") -> ir.Model:
    """A valid model of opset 12 or later, weights in memory as far as one file can hold them.

    verb: what is done with it, for messages. "fuse" takes no model with a TokenSelect
    Raises DataError when there is no file, ExportError when it is no model that this can be done with.
    """
    model = load_graph(existing_file(path, verb))  # first: the checker has no limits
    check_graph_file(path)
    opset = model.opset_imports.get("", 0)
    if opset < _OLDEST_OPSET:
        raise ExportError(
            f"{verb} needs ONNX opset {_OLDEST_OPSET} or later, {path.name} has {opset}. Export it again."
        )
    if verb == "fuse" and any(is_select_node(node) for node in model.graph):
        raise ExportError(f"{path.name} holds {DOMAIN}::{NAME} already; fuse needs the graph from before.")
    if weight_bytes(model) <= SINGLE_FILE_BYTES:
        ir.external_data.load_to_model(model)
    if opset < _FUNCTION_OPSET:
        model = _converted(model, _FUNCTION_OPSET)
    oldest, newest = _IR_VERSIONS
    model.ir_version = min(max(model.ir_version, oldest), newest)
    return model


def write_fused_graph(
    model: ir.Model, path: Path, accept: Callable[[Path], None], single_file_bytes: int = SINGLE_FILE_BYTES
) -> None:
    """Write ``model`` beside ``path``, pass that file to ``accept``, and only then move it to ``path``.

    The name of external weights holds their hash: a kill between the two moves leaves no graph with other weights.
    Raises ExportError; what ``accept`` raises passes through.
    """
    if path.is_dir():
        raise ExportError(f"-o must be the name of a file to write, got the folder {path}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = save_graph(model, Path(folder) / path.name, single_file_bytes, hashed=True)
            check_graph_file(written[0])
            accept(written[0])
            for file in reversed(written):  # the weights first: no graph may be there without them
                _synced(file).replace(path.with_name(file.name))
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error}. An older file there is unchanged.") from error


def _converted(model: ir.Model, opset: int) -> ir.Model:
    try:
        return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), opset))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"opset {model.opset_imports['']} must become {opset}, the first that holds functions, and ONNX's "
            f"converter failed: {error} Export the model again with opset 13 or later."
        ) from error


def _synced(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path
