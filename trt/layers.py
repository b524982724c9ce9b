"""FP16 in TensorRT 8: the builder chooses the type of each layer, except of those that are named.

A layer is found by the ONNX node that it comes from. 8.6 writes that node into the layer's metadata, which needs no
guess; layers that its parser adds without metadata (LayerNormalization) are found by the name of an output tensor,
which ``export/tensorrt8.py`` makes from the node's. 8.5 has neither: there a layer's name is its node's, with a number
after it where the name is taken.
Source: onnx-tensorrt 8.6-GA, ``processMetadata`` and ``registerLayer``; 8.5-GA, ``generateUniqueName``.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from tokfilter.errors import EngineError
from tokfilter.trt.module import name_and_version

__all__ = ["keep_in_fp32", "node_of_layer"]

_METADATA: Final = re.compile(r"\[ONNX Layer: (.*?)(?: \| .*)?\]", re.DOTALL)
_TENSOR: Final = re.compile(r"(.+):\d+")
_NUMBERED: Final = re.compile(r"(.+)_\d+")


def keep_in_fp32(module: Any, network: Any, names: Iterable[str]) -> list[str]:
    """Set the precision and the outputs of every layer of the ONNX nodes ``names`` to fp32.

    Layers without a node that only move the output of such a layer (Shuffle) are set too. Returns the names that no
    layer has: the parser computes some nodes itself. Raises EngineError where no layer has any of the names.
    """
    wanted = set(names)
    found: set[str] = set()
    exact: set[str] = set()  # tensors that a kept layer gives
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = node_of_layer(layer, wanted)
        moved = node is None and layer.type == module.LayerType.SHUFFLE and _input_name(layer) in exact
        if node not in wanted and not moved:
            continue
        outputs = [output for output in _outputs(layer) if output.dtype in (module.float32, module.float16)]
        if not outputs or layer.type == module.LayerType.CONSTANT:
            found.update({node} if node in wanted else ())  # a layer of a shape has no precision to choose
            continue
        layer.precision = module.float32
        for number in range(layer.num_outputs):
            if layer.get_output(number).dtype in (module.float32, module.float16):
                layer.set_output_type(number, module.float32)
        exact.update(output.name for output in outputs)
        if node is not None:
            found.add(node)
    missing = sorted(wanted - found)
    if missing and not found:
        raise EngineError(
            f"{name_and_version(module)} has no layer for any of the {len(wanted)} ONNX nodes to keep in fp32, such as "
            f"{missing[0]}: expected names of nodes of this graph. Report this model."
        )
    return missing


def node_of_layer(layer: Any, wanted: Iterable[str] = ()) -> str | None:
    """Name of the ONNX node that a layer comes from; None where nothing says it.

    wanted: names of nodes; a layer's own name is taken without its number only where that gives one of them
    """
    metadata = _METADATA.fullmatch(getattr(layer, "metadata", "") or "")
    if metadata is not None:
        return metadata[1]
    if layer.name in wanted:
        return str(layer.name)
    numbered = _NUMBERED.fullmatch(layer.name)
    if numbered is not None and numbered[1] in wanted:
        return numbered[1]
    for output in _outputs(layer):
        tensor = _TENSOR.fullmatch(output.name)
        if tensor is not None:
            return tensor[1]
    return None


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(number) for number in range(layer.num_outputs)]


def _input_name(layer: Any) -> str | None:
    source = layer.get_input(0) if layer.num_inputs else None
    return None if source is None else source.name
