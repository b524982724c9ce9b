"""The layers of a Vision Transformer in groups that are kept in fp32 together: one for the MLP of a block, and so on.

A group is the smallest unit of the search for layers that fp16 is too narrow for (``fp32_search``). It is a whole
sub-layer: a matrix product whose result exceeds fp16's range needs fp32 in what reads it too. The residual adds of all
blocks are one group: a residual stream that is too large for fp16 stays so to the last block.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.export.precision import LOW_TYPES

__all__ = ["IN_BLOCK", "Group", "groups_from_graph"]

IN_BLOCK: Final = re.compile(r"(?:^|.*\.)blocks\.(\d+)(?:\.(\w+))?")
_RUN: Final = 24
"""Nodes per group in a graph whose nodes are not named after the blocks of a ViT."""


@dataclass(frozen=True)
class Group:
    """Layers that are kept in fp32 together.

    name: for messages and the manifest, such as "MLP of block 3"
    nodes: names of the nodes in the graph
    """

    name: str
    nodes: tuple[str, ...]


def groups_from_graph(graph: ir.Model) -> list[Group]:
    """Groups of the nodes that compute in fp16 or bf16, or of all where the graph is fp32: MLPs first, then attention.

    Nodes without a name cannot be named to an engine and belong to no group.
    """
    typed, low = graph.clone(), set(LOW_TYPES.values())
    passes.ShapeInferencePass()(typed)
    named = [node for node in typed.graph if node.name and node.op_type != "Cast"]
    candidates = [n for n in named if _has_type(n, low)] or [n for n in named if _has_type(n, {ir.DataType.FLOAT})]
    inside = [IN_BLOCK.match(node.name or "") is not None for node in candidates]
    if not any(inside):
        return _runs([node.name or "" for node in candidates])
    first = inside.index(True)
    members: dict[tuple[int, int], list[str]] = {}
    of_value: dict[ir.Value, tuple[int, int]] = {}
    for position, node in enumerate(candidates):
        key = _key(node, of_value, outside=(3, 0) if position < first else (4, 0))
        members.setdefault(key, []).append(node.name or "")
        of_value.update((output, key) for output in node.outputs)
    return [Group(_NAMES[kind].format(block=block), tuple(members[kind, block])) for kind, block in sorted(members)]


_NAMES: Final = (
    "MLP of block {block}",
    "attention of block {block}",
    "residual adds",
    "layers before the first block",
    "layers after the last block",
)


def _key(node: ir.Node, of_value: dict[ir.Value, tuple[int, int]], outside: tuple[int, int]) -> tuple[int, int]:
    """(position in ``_NAMES``, block) of a node. A node that a rewrite named (GELU's) belongs with what it reads."""
    name = node.name or ""
    found = IN_BLOCK.match(name)
    if found is None:
        known = [of_value[value] for value in node.inputs if value in of_value]
        return known[0] if name.startswith("node_") and known else outside
    module = found[2] or ""
    if module.startswith(("mlp", "ls2", "norm2")):
        return 0, int(found[1])
    if module.startswith(("attn", "ls1", "norm1")):
        return 1, int(found[1])
    return 2, 0


def _runs(names: list[str]) -> list[Group]:
    starts = range(0, len(names), _RUN)
    return [Group(f"{names[i]} to {names[min(i + _RUN, len(names)) - 1]}", tuple(names[i : i + _RUN])) for i in starts]


def _has_type(node: ir.Node, types: Collection[ir.DataType | None]) -> bool:
    return any(output.dtype in types for output in node.outputs)
