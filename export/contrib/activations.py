"""GELU and its kin as one node, with the bias before it where there is one."""

import math
from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from tokfilter.export.contrib.walk import (
    DOMAIN,
    Fused,
    add_node,
    biased,
    lone_use,
    made_by,
    scalar,
    supersede,
    unscaled,
)

__all__ = ["fuse_activations"]

_NEAR: Final = 1e-2
"""Relative difference of a constant that was rounded to bf16."""


def fuse_activations(graph: ir.Graph) -> Fused:
    """Fuse every GELU, in erf or in tanh, and every x * sigmoid(a x), in place."""
    fused = Fused("activations")
    for node in list(graph):
        if node.op_type not in _RULES or node.domain:
            continue
        reason = _RULES[node.op_type](node)
        if reason:
            fused.refuse(node, reason)
        else:
            fused.count += 1
    return fused


def _gelu(erf: ir.Node) -> str:
    assert erf.inputs[0] is not None
    x, factor = unscaled(erf.inputs[0])
    plus = lone_use(erf.outputs[0])
    product = None if plus is None else lone_use(plus.outputs[0])
    half = None if product is None else lone_use(product.outputs[0])
    if (
        plus is None
        or product is None
        or half is None
        or [plus.op_type, product.op_type, half.op_type]
        != [
            "Add",
            "Mul",
            "Mul",
        ]
    ):
        return "erf is no part of a GELU"
    one = [scalar(value) for value in plus.inputs if value is not erf.outputs[0]]
    two = [scalar(value) for value in half.inputs if value is not product.outputs[0]]
    if abs(factor * math.sqrt(2) - 1) > _NEAR or one != [1.0] or two != [0.5] or x not in product.inputs:
        return "erf is no part of a GELU"
    _replace(erf, half, x, {}, "Gelu", own_uses={erf.inputs[0].producer(), product})
    return ""


def _sigmoid(sigmoid: ir.Node) -> str:
    assert sigmoid.inputs[0] is not None
    x, alpha = unscaled(sigmoid.inputs[0])
    product = lone_use(sigmoid.outputs[0])
    if product is None or product.op_type != "Mul" or x not in product.inputs:
        return "sigmoid is no part of x * sigmoid(a x)"
    _replace(sigmoid, product, x, {"alpha": alpha}, "QuickGelu", own_uses=None)
    return ""


def _tanh_gelu(tanh: ir.Node) -> str:
    """x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    refused = "tanh is no part of a GELU"
    assert tanh.inputs[0] is not None
    inner, factor = unscaled(tanh.inputs[0])
    cubic = made_by(inner, "Add")
    plus = lone_use(tanh.outputs[0])
    halved = None if plus is None else lone_use(plus.outputs[0])
    last = None if halved is None else lone_use(halved.outputs[0])
    if cubic is None or plus is None or halved is None or last is None or last.op_type != "Mul":
        return refused
    one = [scalar(value) for value in plus.inputs if value is not tanh.outputs[0]]
    half = [scalar(value) for value in halved.inputs if value is not plus.outputs[0]]
    if plus.op_type != "Add" or halved.op_type != "Mul" or one != [1.0] or half != [0.5]:
        return refused
    (x,) = [value for value in last.inputs if value is not halved.outputs[0]]
    term = next((value for value in cubic.inputs if value is not x), None)
    if x is None or term is None or x not in cubic.inputs:
        return refused
    power, weight = unscaled(term)
    cube = made_by(power, "Pow")
    near = abs(factor / math.sqrt(2 / math.pi) - 1) < _NEAR and abs(weight / 0.044715 - 1) < _NEAR
    if cube is None or cube.inputs[0] is not x or scalar(cube.inputs[1]) != 3.0 or not near:
        return refused
    _replace(tanh, last, x, {}, "FastGelu", own_uses={cube, cubic, last})
    return ""


_RULES: Final[dict[str, Callable[[ir.Node], str]]] = {"Erf": _gelu, "Sigmoid": _sigmoid, "Tanh": _tanh_gelu}


def _replace(
    core: ir.Node,
    last: ir.Node,
    x: ir.Value,
    attributes: dict[str, float],
    kind: str,
    own_uses: set[ir.Node | None] | None,
) -> None:
    """Put one node in place of ``last``. own_uses: nodes of the activation that read x, or None if it takes no bias."""
    inputs = [x]
    found = biased(x)
    if found is not None and own_uses is not None and set(x.consumers()) <= own_uses and not x.is_graph_output():
        inputs, kind = list(found), {"Gelu": "BiasGelu"}.get(kind, kind)
    name = f"{(core.name or 'act').rsplit('/', 1)[0]}/{kind}"
    (output,) = add_node(last, kind, inputs, attributes, domain=DOMAIN, name=name, like=[last.outputs[0]])
    supersede(last.outputs[0], output)
