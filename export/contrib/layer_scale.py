"""LayerScale folded into the projection before it: x W + b, times gamma, is x (W gamma) + b gamma."""

from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir

from tokfilter.export.contrib.walk import Fused, constant, lone_use, made_by, supersede

__all__ = ["fold_layer_scales"]

_LOW: Final = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

_ROUNDING: Final = {"fp16": 2.0**-10, "bf16": 2.0**-7}
"""Largest error of a folded matrix, relative to its norm, that is put down to rounding. A LayerScale near its start of
1e-5 makes weights below fp16's smallest normal number, and loses more."""


def fold_layer_scales(graph: ir.Graph, precision: str) -> Fused:
    """Fold every LayerScale of an fp32 graph, in place, where the weights stay exact enough for ``precision``."""
    fused = Fused("layer scales")
    for node in list(graph):
        if node.op_type != "Mul" or node.domain:
            continue
        for x, gamma in (node.inputs, node.inputs[::-1]):
            numbers = constant(gamma)
            if x is None or numbers is None or numbers.ndim != 1 or len(numbers) < 2:
                continue
            reason = _fold(graph, node, x, numbers, precision)
            if reason:
                fused.refuse(node, reason)
            elif reason is not None:
                fused.count += 1
            break
    return fused


def _fold(graph: ir.Graph, node: ir.Node, x: ir.Value, gamma: np.ndarray[Any, Any], precision: str) -> str | None:
    """Returns an empty text when folded, why not, or None where no projection comes before."""
    add = made_by(x, "Add")
    product, biased = made_by(x, "MatMul"), None
    if add is not None:
        for left, right in (add.inputs, add.inputs[::-1]):
            numbers = constant(right)
            if numbers is not None and numbers.shape == gamma.shape:
                product, biased = made_by(left, "MatMul"), right
                break
    weight = None if product is None else product.inputs[1]
    matrix = constant(weight)
    if product is None or weight is None or matrix is None or matrix.ndim != 2:
        return None
    if lone_use(x) is None or lone_use(product.outputs[0]) is None:
        return "the projection is read by another node too"
    if matrix.shape[1] != len(gamma):
        return None
    folded = matrix * gamma
    if _rounding_error(folded, precision) > _ROUNDING.get(precision, 1.0):
        return f"gamma is too small for {precision}"
    product.replace_input_with(1, _scaled(graph, weight, folded))
    if add is not None and biased is not None:
        numbers = constant(biased)
        assert numbers is not None
        add.replace_input_with(list(add.inputs).index(biased), _scaled(graph, biased, numbers * gamma))
    supersede(node.outputs[0], x)
    return ""


def _scaled(graph: ir.Graph, value: ir.Value, numbers: np.ndarray[Any, Any]) -> ir.Value:
    name = f"{value.name}_scaled"
    result = ir.Value(name=name, const_value=ir.tensor(numbers.astype(np.float32), name=name))
    graph.register_initializer(result)
    return result


def _rounding_error(folded: np.ndarray[Any, Any], precision: str) -> float:
    if precision not in _LOW:
        return 0.0
    norm = float(np.linalg.norm(folded))
    lost = folded - folded.astype(_LOW[precision]).astype(np.float32)
    return float(np.linalg.norm(lost)) / norm if norm else 0.0
