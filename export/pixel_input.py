"""A graph that takes 8-bit pixels and normalises them itself: a quarter of the bytes, and no client can get it wrong.

The normalisation is fp32 in every precision, so it gives the bits that ``artifacts.pixels.normalise`` gives outside.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tokfilter.artifacts.pixels import InputForm, input_shape
from tokfilter.errors import ExportError
from tokfilter.export.onnx_file import value_named
from tokfilter.export.simplify import without_dead_code

__all__ = ["with_pixel_input", "without_pixel_input"]

Floats = npt.NDArray[np.float32]

_NAME = "normalise"
"""First part of the names of the nodes and constants."""


def with_pixel_input(graph: ir.Model, form: InputForm, mean: Sequence[float], std: Sequence[float]) -> ir.Model:
    """A copy of a graph with the input ``images`` [B, 3, H, W] float32, which takes 8-bit ``images`` in ``form``.

    mean, std: per channel, for pixels in 0..1
    Raises ExportError where there is no such input.
    """
    graph = graph.clone()
    if form == "float":
        return graph
    body = graph.graph
    images = next((value for value in body.inputs if value.name == "images"), None)
    if images is None or images.dtype != ir.DataType.FLOAT or images.shape is None or len(images.shape) != 4:
        raise ExportError(f"--input {form} needs a graph with an input images [B, 3, H, W] of float32, got {images}.")
    batch = images.shape[0]
    pixels = ir.Value(name="images", type=ir.TensorType(ir.DataType.UINT8))
    size = [length for length in images.shape[1:] if isinstance(length, int)]
    pixels.shape = ir.Shape([batch, *input_shape(form, size)])
    images.name = "images_normalised"
    steps: list[ir.Node] = []

    def step(op: str, name: str, inputs: list[ir.Value], **attributes: ir.Attr) -> ir.Value:
        node = ir.node(op, inputs, dict(attributes), name=f"{_NAME}/{name}")
        result = node.outputs[0]
        result.name, result.type, result.shape = f"{_NAME}_{name}_result", images.type, images.shape
        steps.append(node)
        return result

    # TensorRT takes 8 bits as an input of the network and casts them; every other operation is on floats.
    value = step("Cast", "cast", [pixels], to=ir.AttrInt64("to", int(ir.DataType.FLOAT)))
    if form == "uint8-nhwc":
        value.shape = pixels.shape
        value = step("Transpose", "transpose", [value], perm=ir.AttrInt64s("perm", [0, 3, 1, 2]))
    value = step("Div", "range", [value, _constant(body, "range", np.array(255, np.float32))])
    value = step("Sub", "mean", [value, _constant(body, "mean", _per_channel(mean))])
    value = step("Div", "std", [value, _constant(body, "std", _per_channel(std))])
    position = list(body.inputs).index(images)
    body.inputs[position] = pixels
    images.replace_all_uses_with(value)
    body.insert_before(body[0], steps)
    return graph


def without_pixel_input(graph: ir.Model) -> ir.Model:
    """A copy of a graph of ``with_pixel_input`` that takes normalised floats [B, 3, H, W] again; others as they are."""
    graph = graph.clone()
    body = graph.graph
    last = next((node for node in body if node.name == f"{_NAME}/std"), None)
    if last is None:
        return graph
    pixels = value_named(body.inputs, "images", "input")
    position = list(body.inputs).index(pixels)
    pixels.name = "images_as_pixels"
    images = ir.Value(name="images", type=ir.TensorType(ir.DataType.FLOAT))
    shape = list(pixels.shape or [])
    nhwc = any(node.name == f"{_NAME}/transpose" for node in body)
    images.shape = ir.Shape([shape[i] for i in ((0, 3, 1, 2) if nhwc else (0, 1, 2, 3))])
    last.outputs[0].replace_all_uses_with(images)
    body.inputs[position] = images
    return without_dead_code(graph)


def _per_channel(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1)


def _constant(body: ir.Graph, name: str, value: Floats) -> ir.Value:
    name = f"{_NAME}_{name}"
    constant = ir.Value(name=name, const_value=ir.tensor(value, name=name))
    body.register_initializer(constant)
    return constant
