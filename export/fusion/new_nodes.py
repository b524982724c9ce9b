"""Nodes for a graph that exists, with names that are free in it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["NewNodes"]


class NewNodes:
    """Nodes in the order in which they were made; the caller inserts them into the graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes: list[ir.Node] = []
        self._graph = graph
        self._taken = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
        self._taken |= {value.name for value in graph.inputs} | set(graph.initializers)

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any],
        domain: str = "",
        num_outputs: int = 1,
    ) -> ir.Node:
        """A node with a free name; its outputs are named by the caller."""
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=num_outputs)
        node.name = self._numbered(op if domain else f"TokenSelect_{op}")
        self.nodes.append(node)
        return node

    def add(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a node with the node's name."""
        node = self.node(op, inputs, attributes)
        node.outputs[0].name = node.name
        return node.outputs[0]

    def numbers(self, *numbers: int) -> ir.Value:
        """An initializer [len(numbers)] of int64."""
        name = self._numbered("TokenSelect_numbers")
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(numbers, dtype=np.int64), name=name))
        self._graph.register_initializer(value)
        return value

    def free_name(self, stem: str) -> str:
        """``stem`` where the graph has no such name, else that with a number."""
        return self._reserved(chain([stem], (f"{stem}_{i}" for i in count())))

    def _numbered(self, stem: str) -> str:
        return self._reserved(f"{stem}_{i}" for i in count())

    def _reserved(self, names: Iterable[str]) -> str:
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name
