"""Sum, bias and layer norm as one SkipLayerNormalization."""

import onnx_ir as ir

from tokfilter.export.contrib.walk import DOMAIN, Fused, add_node, biased, constant, lone_use, made_by, supersede

__all__ = ["fuse_norms"]


def fuse_norms(graph: ir.Graph) -> Fused:
    """Fuse every LayerNormalization of a residual sum [B, N, C], in place.

    A low-precision graph casts to fp32 before a norm and back after it; ONNX Runtime's kernel does both inside.
    """
    fused = Fused("layer norms of a residual sum")
    for node in [node for node in graph if node.op_type == "LayerNormalization" and not node.domain]:
        reason = _fuse(graph, node)
        if reason:
            fused.refuse(node, reason)
        elif reason is not None:
            fused.count += 1
    return fused


def _fuse(graph: ir.Graph, norm: ir.Node) -> str | None:
    """Returns an empty text when fused, why not, or None where no sum comes before the norm."""
    total = norm.inputs[0]
    cast = made_by(total, "Cast")
    narrowed = [use for use in norm.outputs[0].consumers() if use.op_type == "Cast"]
    if cast is not None:
        total = cast.inputs[0]
    add = made_by(total, "Add")
    if add is None or total is None or norm.attributes.get_int("axis", -1) not in (-1, 2):
        return None
    left, right = add.inputs
    assert left is not None and right is not None
    if constant(left) is not None or constant(right) is not None or not _same_shape(left, right, total):
        return None
    if cast is not None and (
        len(narrowed) != len(norm.outputs[0].uses())
        or norm.outputs[0].is_graph_output()
        or any(use.outputs[0].dtype != total.dtype for use in narrowed)
    ):
        return f"the result is also used in {norm.outputs[0].dtype}"
    readers = [*total.consumers(), *(cast.outputs[0].consumers() if cast is not None else ())]
    residual = any(node not in (norm, cast) for node in readers) or total.is_graph_output()
    results = [use.outputs[0] for use in narrowed] if cast is not None else [norm.outputs[0]]
    x, skip, bias = _branch(left, right)
    weights = [_in_type(graph, value, total.dtype) for value in norm.inputs[1:]]
    weights += [None] * (2 - len(weights))
    outputs = add_node(
        add,
        "SkipLayerNormalization",
        [x, skip, *weights, *([] if bias is None else [bias])],
        {"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        domain=DOMAIN,
        name=f"{(norm.name or 'norm').rsplit('/', 1)[0]}/SkipLayerNormalization",
        like=[results[0], None, None, total] if residual else [results[0]],
    )
    for value in results:
        supersede(value, outputs[0])
    if residual:
        supersede(total, outputs[3])
    return ""


def _branch(left: ir.Value, right: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Of a sum: the branch before its bias, the other summand, and the bias if there is one."""
    for branch, other in ((right, left), (left, right)):
        found = biased(branch) if lone_use(branch) is not None else None
        if found is not None:
            return found[0], other, found[1]
    return left, right, None


def _same_shape(left: ir.Value, right: ir.Value, total: ir.Value) -> bool:
    shapes = [value.shape for value in (left, right, total)]
    return all(shape is not None and len(shape) == 3 for shape in shapes) and shapes[0] == shapes[1] == shapes[2]


def _in_type(graph: ir.Graph, value: ir.Value | None, kind: ir.DataType | None) -> ir.Value | None:
    """A weight in another type."""
    if value is None or value.dtype == kind or kind is None:
        return value
    numbers = constant(value)
    assert numbers is not None
    name = f"{value.name}_{kind.name.lower()}"
    if name in graph.initializers:
        return graph.initializers[name]
    narrow = ir.Value(name=name, const_value=ir.tensor(numbers.astype(kind.numpy()), dtype=kind, name=name))
    graph.register_initializer(narrow)
    return narrow
