"""Statistics of any ONNX graph: operators, parameters, tokens in each attention, multiply-accumulates (MACs)."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node
from tokfilter.export.later_slots import kept_lengths
from tokfilter.export.selection import node_graph, selections

__all__ = [
    "Attention",
    "TokenSelectNode",
    "attentions",
    "lengths_of",
    "macs",
    "operators",
    "parameters",
    "token_select_nodes",
]


@dataclass(frozen=True)
class TokenSelectNode:
    """A TokenSelect node of a graph. Numbers are None where the graph leaves them open.

    attributes: as on the node
    tokens_in, tokens_out: rows before and after the selection, prefix tokens included
    has_function: whether the file has the function body that runs without the plugin
    plain: whether standard operators stand in its place
    """

    node: str
    attributes: dict[str, int | str]
    tokens_in: int | None
    tokens_out: int | None
    has_function: bool
    plain: bool = False


@dataclass(frozen=True)
class Attention:
    """Number of queries and keys of one softmax; None where the graph leaves it open."""

    node: str
    queries: int | None
    keys: int | None


def lengths_of(graph: ir.Model, budget: int | None = None) -> dict[str, int]:
    """Numbers for the open dimensions of the inputs: 1 for a batch, ``budget`` for the length of ``slots``."""
    lengths: dict[str, int] = {}
    for value in graph.graph.inputs:
        for axis, length in enumerate(value.shape or ()):
            if isinstance(length, ir.SymbolicDim) and length.value is not None:
                if value.name == "slots" and budget is not None:
                    lengths[length.value] = budget
                elif axis == 0:
                    lengths.setdefault(length.value, 1)
    if budget is not None and any(value.name == "slots" for value in graph.graph.inputs):
        lengths |= kept_lengths(graph, budget)
    return lengths


def operators(graph: ir.Model) -> dict[str, Counter[str]]:
    """Operators counted: ``before`` and ``after`` the first TokenSelect (all of them in ``before`` without one).

    The operators that stand in its place count as ``before``.
    """
    counts: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
    part, chosen = "before", {f"{name}/selected" for name in selections(graph)}
    last = None
    for node in graph.graph:
        if is_select_node(node) or (last is not None and last.name in chosen):
            part = "after"
        last = node
        counts[part][node.op_type if not node.domain else f"{node.domain}::{node.op_type}"] += 1
    return counts


def parameters(graph: ir.Model) -> int:
    """Numbers in floating-point weights of more than one element."""
    weights = [value.const_value for value in graph.graph.initializers.values()]
    return sum(
        weight.size for weight in weights if weight is not None and weight.dtype.is_floating_point() and weight.size > 1
    )


def token_select_nodes(graph: ir.Model, lengths: Mapping[str, int]) -> list[TokenSelectNode]:
    """The TokenSelect nodes, in order, and the selections that standard operators stand for."""
    plain = set(selections(graph))
    with_nodes = graph
    if plain:
        with suppress(ExportError):  # changed by another tool
            with_nodes = node_graph(graph)
    found = []
    for node in filter(is_select_node, with_nodes.graph):
        attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
        before, after = (_length(value, 1, lengths) for value in (node.inputs[0], node.outputs[0]))
        has_function = node.op_identifier() in graph.functions
        found.append(TokenSelectNode(node.name or "", attributes, before, after, has_function, node.name in plain))
    return found


def attentions(graph: ir.Model, lengths: Mapping[str, int]) -> list[Attention]:
    """Every softmax over tokens (the last axis of 3 dimensions or more), in order."""
    found = []
    for node in graph.graph:
        value = node.outputs[0]
        if node.op_type == "Softmax" and value.shape is not None and len(value.shape) >= 3:
            found.append(Attention(node.name or "", _length(value, -2, lengths), _length(value, -1, lengths)))
    return found


def macs(graph: ir.Model, lengths: Mapping[str, int]) -> int | None:
    """Multiply-accumulates of matrix products and convolutions; None when a shape stays open."""
    total = 0
    for node in graph.graph:
        if node.domain or node.op_type not in _MACS_PER_OUTPUT:
            continue
        outputs = _sizes(node.outputs[0], lengths)
        each = _MACS_PER_OUTPUT[node.op_type](node, lengths)
        if outputs is None or each is None:
            return None
        total += math.prod(outputs) * each
    return total


def _matmul(node: ir.Node, lengths: Mapping[str, int]) -> int | None:
    return _length(node.inputs[0], -1, lengths)


def _gemm(node: ir.Node, lengths: Mapping[str, int]) -> int | None:
    transposed = node.attributes.get("transA")
    return _length(node.inputs[0], 0 if transposed is not None and transposed.as_int() else 1, lengths)


def _conv(node: ir.Node, lengths: Mapping[str, int]) -> int | None:
    weight = _sizes(node.inputs[1], lengths)
    return None if weight is None else math.prod(weight[1:])


_MACS_PER_OUTPUT = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv}


def _sizes(value: ir.Value | None, lengths: Mapping[str, int]) -> list[int] | None:
    if value is None:
        return None
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None:
        return None
    sizes = list(ir.Shape(tuple(shape)).evaluate(lengths))  # type: ignore[arg-type]  # a protocol without __iter__
    return [size for size in sizes if isinstance(size, int)] if all(isinstance(size, int) for size in sizes) else None


def _length(value: ir.Value | None, axis: int, lengths: Mapping[str, int]) -> int | None:
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    length = value.shape[axis]
    length = length.evaluate(lengths) if isinstance(length, ir.SymbolicDim) else length
    return length if isinstance(length, int) else None


def _plain(attribute: ir.Attr) -> Any:
    return attribute.as_int() if attribute.type == ir.AttributeType.INT else attribute.as_string()
