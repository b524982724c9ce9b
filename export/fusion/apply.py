"""Insert a TokenSelect node in place of nodes that were found equivalent to one."""

from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tokfilter.export.fusion.equivalence import Equivalence
from tokfilter.export.fusion.heads import scores_of_all_images, tokens_of_all_images, with_heads
from tokfilter.export.fusion.new_nodes import NewNodes
from tokfilter.export.fusion.readers import Fusion
from tokfilter.export.fusion.shapes import Shapes
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

__all__ = ["insert_token_select"]

_BEFORE_THE_FIRST: Final = -(2**31) + 1  # end of a Slice that runs backwards over everything; int32 for TensorRT


def insert_token_select(fusion: Fusion, model: ir.Model, shapes: Shapes) -> tuple[ir.Node, ir.Value]:
    """Insert TokenSelect, redirect every reader to it, remove dead nodes. Returns the node and the kept rows."""
    graph, equivalence = model.graph, fusion.equivalence
    candidate = equivalence.candidate
    after = candidate.kept.producer() if not candidate.left else next(iter(candidate.kept.uses())).node
    assert after is not None
    new, count = NewNodes(graph), equivalence.prefix_tokens + equivalence.k
    tokens = tokens_of_all_images(candidate, new, shapes)
    node = _token_select(tokens, fusion, new, shapes)
    rows = with_heads(_kept_rows(node, tokens, fusion, new), count, candidate, new, shapes)
    graph.insert_before(after, new.nodes)
    _replace_rows(rows, after, equivalence)
    selected, indices = node.outputs
    selected.name = selected.name or new.free_name(f"{node.name}_selected")
    rows.name = rows.name or new.free_name(f"{node.name}_rows")
    indices.name, indices.dtype = new.free_name(f"{node.name}_indices"), ir.DataType.INT32
    shapes.record(rows, like=candidate.tokens, rows=count)
    RemoveUnusedNodesPass()(model)
    _serve_readers(node, fusion, model, shapes)
    RemoveUnusedNodesPass()(model)
    return node, rows


def _token_select(tokens: ir.Value, fusion: Fusion, new: NewNodes, shapes: Shapes) -> ir.Node:
    """The node; tokens and scores are in reverse where it has to keep the higher position of equal scores."""
    equivalence, prefix = fusion.equivalence, fusion.equivalence.prefix_tokens
    scores = scores_of_all_images(equivalence.candidate, prefix, new, shapes)
    if equivalence.ranking.mirrored:
        tokens = _reversed(tokens, new, prefix - 1 if prefix else _BEFORE_THE_FIRST)
        scores, prefix = _reversed(scores, new), 0
    own: dict[str, int | str] = {"k": fusion.budget, "prefix_tokens": prefix, "order": equivalence.ranking.order}
    return new.node(
        NAME, [tokens, scores], own | {"plugin_namespace": DOMAIN, "plugin_version": VERSION}, DOMAIN, num_outputs=2
    )


def _kept_rows(node: ir.Node, tokens: ir.Value, fusion: Fusion, new: NewNodes) -> ir.Value:
    """Prefix and kept rows, made of the node's output."""
    rows, prefix = node.outputs[0], fusion.equivalence.prefix_tokens
    if fusion.budget > fusion.equivalence.k:
        return _first_rows(rows, prefix + fusion.equivalence.k, new)
    if fusion.equivalence.ranking.flipped:
        rows = _reversed(rows, new)
    if fusion.equivalence.ranking.mirrored and prefix:
        rows = new.add("Concat", _first_rows(tokens, prefix, new), rows, axis=1)
    return rows


def _reversed(value: ir.Value, new: NewNodes, end: int = _BEFORE_THE_FIRST) -> ir.Value:
    """``value`` along axis 1 from the last element down to behind ``end``."""
    return new.add("Slice", value, new.numbers(-1), new.numbers(end), new.numbers(1), new.numbers(-1))


def _first_rows(value: ir.Value, count: int, new: NewNodes) -> ir.Value:
    return new.add("Slice", value, new.numbers(0), new.numbers(count), new.numbers(1))


def _replace_rows(rows: ir.Value, after: ir.Node, equivalence: Equivalence) -> None:
    """Redirect the readers of the kept rows to ``rows``; a Concat keeps only the inputs after them."""
    old = after.outputs[0] if equivalence.candidate.left else equivalence.candidate.kept
    taken = len(equivalence.candidate.left) + 1
    if equivalence.candidate.left and len(after.inputs) > taken:
        rest = list(after.inputs[taken:])
        for position, value in enumerate([rows, *rest]):
            after.replace_input_with(position, value)
        after.resize_inputs(1 + len(rest))
        rows.type = equivalence.candidate.tokens.type
        return
    _take_place(rows, old)


def _take_place(value: ir.Value, old: ir.Value) -> None:
    """Give ``value`` the name, the type and the readers of ``old``."""
    value.name, old.name = old.name, None
    value.type, value.shape = old.type, old.shape
    old.replace_all_uses_with(value, replace_graph_outputs=True)


def _serve_readers(node: ir.Node, fusion: Fusion, model: ir.Model, shapes: Shapes) -> None:
    """Redirect the other readers of TopK's results to the op's second output and to what it gathers."""
    graph, topk, indices = model.graph, fusion.topk, node.outputs[1]
    new = NewNodes(graph)
    served = []
    for rows, ranks in fusion.ranks.items():
        served.append((_rows_of_ranks(ranks, node, fusion, new, shapes), rows))
    for other in fusion.others:
        served.append((_gathered_rows(indices, other, new, shapes), other.candidate.kept))
    top = topk.outputs[0]
    if topk.graph is not None and topk.outputs[1] in fusion.indices and _is_read(top):
        axis = topk.attributes.get_int("axis", -1)
        served.append((new.add("GatherElements", topk.inputs[0], topk.outputs[1], axis=axis), top))
    for value, old in served:
        _take_place(value, old)
    graph.insert_after(node, new.nodes)
    RemoveUnusedNodesPass()(model)
    for old, shape in fusion.indices.items():
        producer = old.producer()
        # Behind another tensor that is served, its own nodes go on.
        if (
            producer is None
            or producer.graph is None
            or not _is_read(old)
            or fusion.indices.keys() & {*producer.inputs}
        ):
            continue
        positions = NewNodes(graph)
        value = positions.add("Cast", indices, to=shapes.dtype(old) or ir.DataType.INT64)
        if len(shape) > 1:
            value = positions.add("Reshape", value, positions.numbers(0, *(1 if dim == 1 else -1 for dim in shape)))
        graph.insert_after(node, positions.nodes)
        _take_place(value, old)
    graph.sort()  # a reader may come before the node that it reads now


def _rows_of_ranks(ranks: tuple[int, int], node: ir.Node, fusion: Fusion, new: NewNodes, shapes: Shapes) -> ir.Value:
    """The rows of ``ranks``, first and behind the last, out of all patches in the order of their scores."""
    first, end = (fusion.equivalence.prefix_tokens + rank for rank in ranks)
    cut = new.add("Slice", node.outputs[0], new.numbers(first), new.numbers(end), new.numbers(1))
    return with_heads(cut, end - first, fusion.equivalence.candidate, new, shapes)


def _gathered_rows(indices: ir.Value, other: Equivalence, new: NewNodes, shapes: Shapes) -> ir.Value:
    """The prefix of another tensor and its rows at the op's indices. GatherND over the batch copies whole rows."""
    tokens, prefix = tokens_of_all_images(other.candidate, new, shapes), other.prefix_tokens
    positions = new.add("Cast", indices, to=ir.DataType.INT64)
    if prefix:
        positions = new.add("Add", positions, new.numbers(prefix))
    rows = new.add("GatherND", tokens, new.add("Reshape", positions, new.numbers(0, 0, 1)), batch_dims=1)
    if prefix:
        rows = new.add("Concat", _first_rows(tokens, prefix, new), rows, axis=1)
    return with_heads(rows, prefix + other.k, other.candidate, new, shapes)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
