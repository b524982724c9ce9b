"""Read and edit a traced graph: producers, constants, new nodes."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

__all__ = [
    "DOMAIN",
    "Fused",
    "add_node",
    "biased",
    "constant",
    "lone_use",
    "made_by",
    "scalar",
    "supersede",
    "unscaled",
]

DOMAIN: Final = "com.microsoft"


class Fused:
    """How many of one kind were fused, and the reasons for the others.

    reasons: reason -> names of the nodes
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.count = 0
        self.reasons: dict[str, list[str]] = {}

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Count a node that stays as it is."""
        self.reasons.setdefault(reason, []).append(node.name or node.op_type)

    @property
    def total(self) -> int:
        """All that were found."""
        return self.count + sum(map(len, self.reasons.values()))

    def __str__(self) -> str:
        text = f"{self.count} of {self.total} {self.kind}"
        left = [f"{reason} ({len(names)}: {names[0]})" for reason, names in self.reasons.items()]
        return f"{text}; not fused: {', '.join(left)}" if left else text


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that computes ``value``, if it is of one of these kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in kinds and node.domain in ("", DOMAIN) else None


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The numbers of an initializer."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number of an initializer of one element."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().item())


def lone_use(value: ir.Value) -> ir.Node | None:
    """The node that reads ``value``, if it is the only one and ``value`` is no output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """``value`` before multiplications by and divisions through one number, and that factor."""
    factor = 1.0
    while (node := made_by(value, "Mul", "Div")) is not None:
        left, right = node.inputs
        number = scalar(right)
        if number is None and node.op_type == "Mul":
            left, number = right, scalar(left)
        if number is None or left is None or (node.op_type == "Div" and number == 0):
            break
        value, factor = left, factor * (number if node.op_type == "Mul" else 1 / number)
    return value, factor


def biased(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """``x`` and the constant ``bias`` [C] where ``value`` is x [..., C] + bias."""
    node = made_by(value, "Add")
    if node is None:
        return None
    width = None if value.shape is None or not len(value.shape) else value.shape[-1]
    for x, bias in (node.inputs, node.inputs[::-1]):
        numbers = constant(bias)
        if x is not None and bias is not None and numbers is not None and numbers.shape == (width,):
            return x, bias
    return None


def supersede(old: ir.Value, new: ir.Value) -> None:
    """Use ``new`` everywhere in place of ``old``; where that is an output of the graph, under its name."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def add_node(
    before: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    domain: str = "",
    name: str,
    like: Sequence[ir.Value | None],
) -> list[ir.Value]:
    """Insert a node. like: for each output a value of its type and shape, or None for an output that is left out."""
    node = ir.node(kind, inputs, attributes or {}, domain=domain, name=name, num_outputs=len(like))
    for position, (output, model) in enumerate(zip(node.outputs, like, strict=True)):
        output.name = f"{name}_{position}" if model is not None else ""
        if model is not None:
            output.type, output.shape = model.type, model.shape
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return list(node.outputs)
