"""q, k and v of one projection by a Split of its last axis, where timm reshapes, transposes and unbinds."""

import numpy as np
import onnx_ir as ir

from tokfilter.export.contrib.walk import add_node, constant, made_by, supersede

__all__ = ["HEADS_FIRST", "joint_projections", "shape_of", "split_projections"]

HEADS_FIRST = (0, 2, 1, 3)
"""Permutation of [B, N, H, D] to [B, H, N, D]."""

_UNBOUND = (2, 0, 3, 1, 4)


def split_projections(graph: ir.Graph) -> None:
    """Rewrite every part i of a projection x [B, N, n * H * D], in place.

    before: squeeze(slice(transpose(reshape(x, [B, N, n, H, D]), (2, 0, 3, 1, 4)), i))
    after: transpose(reshape(split(x)[i], [B, N, H, D]), (0, 2, 1, 3))
    """
    for reshape, source, parts in joint_projections(graph):
        sizes = constant(reshape.inputs[1])
        assert sizes is not None
        _rewrite(graph, reshape, source, [int(number) for number in sizes[2:]], parts)


def joint_projections(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value, dict[int, ir.Value]]]:
    """The projections that are split as above: the reshape, x, and position -> part [B, H, N, D]."""
    found = []
    for turned in [node for node in graph if node.op_type == "Transpose" and not node.domain]:
        reshape = made_by(turned.inputs[0], "Reshape")
        target = None if reshape is None else constant(reshape.inputs[1])
        if tuple(turned.attributes.get_ints("perm", ())) != _UNBOUND or reshape is None or target is None:
            continue
        parts = _parts(turned)
        source = reshape.inputs[0]
        if parts is not None and source is not None and source.shape is not None and list(target[:2]) == [0, 0]:
            found.append((reshape, source, parts))
    return found


def _parts(turned: ir.Node) -> dict[int, ir.Value] | None:
    """Position -> value [B, H, N, D], where nothing but single positions is taken from ``turned``."""
    parts: dict[int, ir.Value] = {}
    for cut in turned.outputs[0].consumers():
        bounds = [constant(value) for value in cut.inputs[1:4]]
        if cut.op_type != "Slice" or len(bounds) != 3 or any(bound is None or bound.size != 1 for bound in bounds):
            return None
        start, end, axis = (int(bound.item()) for bound in bounds if bound is not None)
        squeezes = [use for use in cut.outputs[0].consumers() if use.op_type == "Squeeze"]
        if axis != 0 or end != start + 1 or len(squeezes) != 1 or len(cut.outputs[0].uses()) != 1:
            return None
        parts[start] = squeezes[0].outputs[0]
    return parts


def _rewrite(graph: ir.Graph, reshape: ir.Node, source: ir.Value, sizes: list[int], parts: dict[int, ir.Value]) -> None:
    count, heads, depth = sizes
    assert source.shape is not None
    scope = (reshape.name or "attention").rsplit("/", 1)[0]
    rows = ir.Value(type=source.type, shape=ir.Shape([*source.shape[:2], heads * depth]))
    split = add_node(
        reshape,
        "Split",
        [source],
        {"axis": -1, "num_outputs": count},
        name=f"{scope}/Split",
        like=[rows] * count,
    )
    shape = shape_of(graph, (0, 0, heads, depth))
    for position, value in parts.items():
        by_token = ir.Value(type=source.type, shape=ir.Shape([*source.shape[:2], heads, depth]))
        (four,) = add_node(
            reshape, "Reshape", [split[position], shape], name=f"{scope}/Reshape_part_{position}", like=[by_token]
        )
        (turned,) = add_node(
            reshape,
            "Transpose",
            [four],
            {"perm": list(HEADS_FIRST)},
            name=f"{scope}/Transpose_part_{position}",
            like=[value],
        )
        supersede(value, turned)


def shape_of(graph: ir.Graph, target: tuple[int, ...]) -> ir.Value:
    """The initializer that holds the shape ``target`` of a Reshape."""
    name = "shape_" + "_".join(map(str, target))
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(np.array(target, np.int64), name=name))
        graph.register_initializer(value)
    return graph.initializers[name]
