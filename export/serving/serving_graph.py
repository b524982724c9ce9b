"""Graphs in the forms that Triton's dynamic batcher and DeepStream's nvinfer take.

Each is made from a graph of an export directory in milliseconds, and ``require_same`` compares it with that graph.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tokfilter.artifacts.compare import TOLERANCES, compare_logits
from tokfilter.errors import ExportError, VerificationError
from tokfilter.export.onnx_file import cpu_session, reason_of, value_named

__all__ = ["batched_slots_graph", "classifier_graph", "outputs_of", "require_same"]

Array = npt.NDArray[Any]

SLOTS: Final = "slots"


def batched_slots_graph(slots_graph: ir.Model) -> ir.Model:
    """The slots form with a row of slots for each image: slots [B, k] instead of [k], values still unused.

    A server that batches requests needs the batch first in every input and joins only requests of equal shapes: a batch
    has one budget, the length of its first row.
    """
    graph = slots_graph.clone()
    images, old = (value_named(graph.graph.inputs, name, "input") for name in ("images", SLOTS))
    assert images.shape is not None and old.shape is not None
    new = ir.Value(name=SLOTS, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([images.shape[0], old.shape[0]]))
    first = ir.Value(name=f"{SLOTS}.row", const_value=ir.tensor(np.array(0, np.int64), name=f"{SLOTS}.row"))
    row = ir.Node("", "Gather", [new, first], [ir.AttrInt64("axis", 0)], name=f"{SLOTS}.first")
    old.replace_all_uses_with(row.outputs[0])
    row.outputs[0].name, row.outputs[0].type, row.outputs[0].shape = f"{SLOTS}.of_first", old.type, old.shape
    graph.graph.inputs[list(graph.graph.inputs).index(old)] = new
    graph.graph.initializers.add(first)
    graph.graph.insert_before(graph.graph[0], row)
    return graph


def classifier_graph(graph: ir.Model, scale: npt.NDArray[np.float32] | None) -> ir.Model:
    """A graph with a fixed budget and one output, ``probabilities`` [B, classes]. Raises ExportError.

    scale: [3], a factor for each channel of the input; None for none
    """
    graph = graph.clone()
    if scale is not None:
        images = value_named(graph.graph.inputs, "images", "input")
        factor = ir.Value(name="images.scale")
        factor.const_value = ir.tensor(scale.astype(np.float32).reshape(1, 3, 1, 1), name=factor.name)
        scaled = ir.Node("", "Mul", [images, factor], name="images.scaled")
        images.replace_all_uses_with(scaled.outputs[0])
        scaled.replace_input_with(0, images)
        scaled.outputs[0].name, scaled.outputs[0].type, scaled.outputs[0].shape = (
            "images.ready",
            images.type,
            images.shape,
        )
        graph.graph.initializers.add(factor)
        graph.graph.insert_before(graph.graph[0], scaled)
    logits = value_named(graph.graph.outputs, "logits", "output")
    softmax = ir.Node("", "Softmax", [logits], [ir.AttrInt64("axis", -1)], name="probabilities")
    (probabilities,) = softmax.outputs
    probabilities.name, probabilities.type, probabilities.shape = "probabilities", logits.type, logits.shape
    graph.graph.append(softmax)
    graph.graph.outputs[:] = [probabilities]
    return graph


def outputs_of(path: Path, precision: str | None, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a graph in ONNX Runtime on the CPU, by name. Raises ExportError where it does not run."""
    session = cpu_session(path, precision)
    names = [value.name for value in session.get_outputs()]
    try:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))
    except Exception as error:  # as in cpu_session
        raise ExportError(f"ONNX Runtime does not run {path.name}: {reason_of(error)}") from error


def require_same(path: Path, found: Array, expected: Array, precision: str | None) -> None:
    """Raise VerificationError unless two outputs [B, classes] agree within the tolerance of their precision."""
    errors = compare_logits(found, expected, TOLERANCES[precision or "fp32"]).errors
    if errors:
        raise VerificationError(
            f"{path.name}, rewritten for its server, differs from the exported graph: {'; '.join(errors)}. Nothing was "
            "written; export again, or report this."
        )
