"""The forms of a traced model as plain graphs, and beside them with the node TokenSelect for TensorRT's plugin."""

from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir

from tokfilter.export.forms import Form
from tokfilter.export.selection import plain_graph, selections

__all__ = ["named_in", "plain_forms", "plugin_forms"]


def plain_forms(forms: Iterable[Form]) -> Iterator[Form]:
    """Each form in standard operators only."""
    for name, graph, details in forms:
        yield name, plain_graph(graph), details


def plugin_forms(forms: Iterable[Form]) -> Iterator[Form]:
    """The filtered forms with the node, for TensorRT's plugin."""
    for name, graph, details in forms:
        if details["role"] == "filtered":
            yield name, graph, details | {"runtime": "onnx-plugin"}


def named_in(graph: ir.Model, kept_fp32: dict[str, Any]) -> dict[str, Any]:
    """``Entry.kept_fp32`` with the names that the nodes have in ``graph``: a selection there may be many operators."""
    if not kept_fp32:
        return kept_fp32
    roots, names = selections(graph), [node.name or "" for node in graph.graph]
    parts = {root: [name for name in names if name.startswith(f"{root}/")] for root in roots}
    groups = {
        group: [part for node in nodes for part in parts.get(node, [node])]
        for group, nodes in kept_fp32["groups"].items()
    }
    return kept_fp32 | {"groups": groups}
