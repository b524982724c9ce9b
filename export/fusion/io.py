"""A foreign ONNX file in, checked; the fused one out, so that an old file survives any failure."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx
import onnx.checker
import onnx.version_converter
import onnx_ir as ir

from tokfilter.artifacts.files import existing_file
from tokfilter.errors import ExportError
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["SINGLE_FILE_BYTES", "read_graph", "write_graph"]

SINGLE_FILE_BYTES: Final = 2**31 - 2**24
"""What fits into one protobuf message; a larger model keeps its weights in a file beside it."""

_OLDEST_OPSET: Final = 11
# A function may read an attribute as a number (Constant's value_int) from 12 on.
_FUNCTION_OPSET: Final = 12
# ONNX functions exist since IR version 8; TensorRT 10.3 and its tools read up to 10.
_IR_VERSIONS: Final = (8, 10)


def read_graph(path: Path) -> ir.Model:
    """A valid model of opset 12 or later without TokenSelect, weights in memory as far as one file can hold them.

    Raises DataError when there is no file, ExportError when it is no model that can be fused.
    """
    existing_file(path, "fuse")
    _check(path)
    model = ir.load(path)
    opset = model.opset_imports.get("", 0)
    if opset < _OLDEST_OPSET:
        raise ExportError(f"fuse wants ONNX opset {_OLDEST_OPSET} or later, {path.name} has {opset}. Export it again.")
    if any((node.domain, node.op_type) == (DOMAIN, NAME) for node in model.graph):
        raise ExportError(f"{path.name} holds {DOMAIN}::{NAME} already; fuse wants the graph from before.")
    if _weight_bytes(model) <= SINGLE_FILE_BYTES:
        ir.external_data.load_to_model(model)
    if opset < _FUNCTION_OPSET:
        model = _converted(model, _FUNCTION_OPSET)
    oldest, newest = _IR_VERSIONS
    model.ir_version = min(max(model.ir_version, oldest), newest)
    return model


def write_graph(
    model: ir.Model, path: Path, accept: Callable[[Path], None], single_file_bytes: int = SINGLE_FILE_BYTES
) -> None:
    """Write ``model`` beside ``path``, let ``accept`` look at the file, and only then put it in the place of ``path``.

    Weights above ``single_file_bytes`` go to a file whose name carries their hash, so that a model never meets another
    one's weights, whatever is killed when. Raises ExportError; what ``accept`` raises passes through.
    """
    if path.is_dir():
        raise ExportError(f"fuse wants the name of a file to write, got the folder {path}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            beside = None if _weight_bytes(model) <= single_file_bytes else f"{path.name}.{_weights_hash(model)}.data"
            ir.save(model, part, format="protobuf", external_data=beside)
            _check(part)
            accept(part)
            for name in filter(None, (beside, path.name)):
                _synced(part.with_name(name)).replace(path.with_name(name))
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error}. An older file there is as it was.") from error


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ExportError(f"{path.name} is no valid ONNX model: {error}") from error


def _weight_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _weights_hash(model: ir.Model) -> str:
    digest = hashlib.sha256()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()[:16]


def _converted(model: ir.Model, opset: int) -> ir.Model:
    try:
        return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), opset))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"opset {model.opset_imports['']} had to become {opset}, the first that holds functions, and ONNX's "
            f"converter says: {error} Export the model again with opset 13 or later."
        ) from error


def _synced(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path
