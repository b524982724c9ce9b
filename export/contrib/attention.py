"""softmax(q k^T) v as one MultiHeadAttention."""

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from tokfilter.export.contrib.projections import HEADS_FIRST, shape_of
from tokfilter.export.contrib.walk import DOMAIN, Fused, add_node, constant, lone_use, made_by, supersede, unscaled

__all__ = ["fuse_attentions"]

_ROW_WISE: Final = ("Cast", "LayerNormalization", "RMSNormalization")
"""Ops over the last axis: they commute with a transpose of heads and tokens."""


def fuse_attentions(graph: ir.Graph, bias_inside: bool = True) -> Fused:
    """Fuse every attention of ``graph``, in place; ``split_projections`` comes first.

    bias_inside: give the q, k, v bias to the attention where all three come from one projection
    """
    fused = Fused("attentions")
    for node in [node for node in graph if node.op_type == "Softmax" and not node.domain]:
        reason = _fuse(graph, node, bias_inside)
        if reason:
            fused.refuse(node, reason)
        else:
            fused.count += 1
    return fused


def _fuse(graph: ir.Graph, softmax: ir.Node, bias_inside: bool) -> str:
    """Fuse the attention around ``softmax``; returns why not, or an empty text."""
    assert softmax.inputs[0] is not None
    scores, scale = unscaled(softmax.inputs[0])
    product = made_by(scores, "MatMul")
    if product is None:
        return "a bias or mask is added to the scores" if made_by(scores, "Add") else "the scores are no product"
    query, query_scale = unscaled(_given(product.inputs[0]))
    keys, keys_scale = unscaled(_given(product.inputs[1]))
    turn = made_by(keys, "Transpose")
    if turn is None or tuple(turn.attributes.get_ints("perm", ())) != (0, 1, 3, 2):
        return "the keys are not transposed by (0, 1, 3, 2)"
    key, key_scale = unscaled(_given(turn.inputs[0]))
    weighted = lone_use(softmax.outputs[0])
    if weighted is None or weighted.op_type != "MatMul" or weighted.inputs[0] is not softmax.outputs[0]:
        return "the softmax is read by something else than the product with the values"
    value = _given(weighted.inputs[1])
    merged = lone_use(weighted.outputs[0])
    flat = None if merged is None else lone_use(merged.outputs[0])
    turned = merged is not None and tuple(merged.attributes.get_ints("perm", ())) == HEADS_FIRST
    if not turned or flat is None or flat.op_type != "Reshape":
        return "the heads are not merged by a transpose and a reshape"
    heads = {_heads(part) for part in (query, key, value)}
    if None in heads or len(heads) != 1:
        return "queries, keys and values have no common number of heads"
    inputs = [_rows(graph, part, softmax) for part in (query, key, value)]
    (output,) = add_node(
        flat,
        "MultiHeadAttention",
        _with_bias_apart(inputs) if bias_inside else inputs,
        {"num_heads": heads.pop(), "scale": float(scale * query_scale * keys_scale * key_scale)},
        domain=DOMAIN,
        name=(softmax.name or "attention").rsplit("/", 1)[0] + "/MultiHeadAttention",
        like=[flat.outputs[0]],
    )
    supersede(flat.outputs[0], output)
    return ""


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _heads(value: ir.Value) -> int | None:
    """Number of heads of [B, H, N, D]."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, depth = value.shape[1], value.shape[3]
    return heads if isinstance(heads, int) and isinstance(depth, int) else None


def _rows(graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
    """[B, H, N, D] as [B, N, H * D]."""
    by_token = _tokens_first(graph, value, before)
    reshape = made_by(by_token, "Reshape")
    if reshape is not None and reshape.inputs[0] is not None:
        source = reshape.inputs[0]
        target = constant(reshape.inputs[1])
        if source.shape is not None and len(source.shape) == 3 and target is not None and list(target[:2]) == [0, 0]:
            return source
    assert value.shape is not None and by_token.shape is not None
    width = int(value.shape[1]) * int(value.shape[3])  # type: ignore[arg-type]  # _heads found numbers
    inputs = [by_token, shape_of(graph, (0, 0, width))]
    (rows,) = add_node(before, "Reshape", inputs, name=f"{by_token.name}/rows", like=[by_token])
    rows.shape = ir.Shape([*by_token.shape[:2], width])
    return rows


def _tokens_first(graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
    """[B, H, N, D] as [B, N, H, D]."""
    node = made_by(value, "Transpose", *_ROW_WISE)
    source = None if node is None else node.inputs[0]
    if node is not None and source is not None and node.op_type == "Transpose":
        if tuple(node.attributes.get_ints("perm", ())) == HEADS_FIRST:
            return source
    elif node is not None and source is not None and _heads(source) is not None and _is_last_axis(node):
        inputs = [_tokens_first(graph, source, before), *node.inputs[1:]]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        return _turned(add_node(before, node.op_type, inputs, attributes, name=f"{node.name}_rows", like=[value])[0])
    attributes = {"perm": list(HEADS_FIRST)}
    return _turned(add_node(before, "Transpose", [value], attributes, name=f"{value.name}/turned", like=[value])[0])


def _turned(output: ir.Value) -> ir.Value:
    assert output.shape is not None
    output.shape = ir.Shape([output.shape[axis] for axis in HEADS_FIRST])
    return output


def _is_last_axis(node: ir.Node) -> bool:
    return node.op_type == "Cast" or node.attributes.get_int("axis", -1) in (-1, 3)


def _with_bias_apart(parts: Sequence[ir.Value]) -> list[ir.Value]:
    """q, k, v and their bias where the three are all parts of one biased projection, else as they are."""
    split = made_by(parts[0], "Split")
    source = None if split is None else split.inputs[0]
    add = made_by(source, "Add")
    if split is None or source is None or add is None or list(split.outputs) != list(parts):
        return list(parts)
    for x, bias in (add.inputs, add.inputs[::-1]):
        numbers = constant(bias)
        if x is not None and bias is not None and numbers is not None and numbers.ndim == 1:
            split.replace_input_with(0, x)
            x.shape, x.type = source.shape, source.type
            return [*parts, bias]
    return list(parts)
