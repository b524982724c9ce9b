"""Insert a TokenSelect node in place of nodes that were found equivalent to one."""

from itertools import count

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tokfilter.export.fusion.equivalence import Equivalence
from tokfilter.export.fusion.shapes import Shapes
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

__all__ = ["insert_token_select"]


def insert_token_select(equivalence: Equivalence, model: ir.Model, shapes: Shapes) -> ir.Node:
    """Insert TokenSelect, redirect every reader to it, remove dead nodes. Returns the node."""
    graph, candidate = model.graph, equivalence.candidate
    after = candidate.kept.producer() if not candidate.left else next(iter(candidate.kept.uses())).node
    assert after is not None
    flat = _flat_scores(candidate.scores, shapes, graph)
    scores = flat[0].outputs[0] if flat else candidate.scores
    node = ir.node(NAME, [candidate.tokens, scores], _attributes(equivalence), domain=DOMAIN, num_outputs=2)
    graph.insert_before(after, [*flat, node])
    node.name = _fresh_name(graph, NAME)
    selected, indices = node.outputs
    _replace_rows(selected, after, equivalence)
    if selected.name is None:
        selected.name = f"{node.name}_selected"
    indices.name, indices.dtype = f"{node.name}_indices", ir.DataType.INT32
    shapes.record(selected, like=candidate.tokens, rows=equivalence.prefix_tokens + equivalence.k)
    RemoveUnusedNodesPass()(model)
    _redirect_index_readers(indices, node, equivalence, shapes)
    RemoveUnusedNodesPass()(model)
    return node


def _attributes(equivalence: Equivalence) -> dict[str, int | str]:
    own: dict[str, int | str] = {
        "k": equivalence.k,
        "prefix_tokens": equivalence.prefix_tokens,
        "order": equivalence.order,
    }
    return own | {"plugin_namespace": DOMAIN, "plugin_version": VERSION}


def _flat_scores(scores: ir.Value, shapes: Shapes, graph: ir.Graph) -> list[ir.Node]:
    """A node that reshapes scores such as [B, N, 1] to [B, N], or none. Flatten is the same in every opset."""
    if len(shapes.dims(scores) or ()) == 2:
        return []
    node = ir.node("Flatten", [scores], {"axis": 1})
    node.name = _fresh_name(graph, "TokenSelect_scores")
    node.outputs[0].name = node.name
    return [node]


def _replace_rows(selected: ir.Value, after: ir.Node, equivalence: Equivalence) -> None:
    """Redirect the readers of the kept rows to ``selected``; a Concat keeps only the inputs after them."""
    old = after.outputs[0] if equivalence.candidate.left else equivalence.candidate.kept
    taken = len(equivalence.candidate.left) + 1
    if equivalence.candidate.left and len(after.inputs) > taken:
        rest = list(after.inputs[taken:])
        for position, value in enumerate([selected, *rest]):
            after.replace_input_with(position, value)
        after.resize_inputs(1 + len(rest))
        selected.type = equivalence.candidate.tokens.type
        return
    selected.name, old.name = old.name, None
    selected.type, selected.shape = old.type, old.shape
    old.replace_all_uses_with(selected, replace_graph_outputs=True)


def _redirect_index_readers(indices: ir.Value, node: ir.Node, equivalence: Equivalence, shapes: Shapes) -> None:
    """Redirect other readers of the kept positions to the op's second output."""
    for old in equivalence.indices:
        producer = old.producer()
        if producer is None or producer.graph is None or not (old.uses() or old.is_graph_output()):
            continue
        cast = ir.node("Cast", [indices], {"to": shapes.dtype(old) or ir.DataType.INT64})
        assert node.graph is not None
        node.graph.insert_after(node, cast)
        cast.name = _fresh_name(node.graph, "TokenSelect_positions")
        kept = cast.outputs[0]
        kept.name, old.name = old.name, None
        kept.type, kept.shape = old.type, old.shape
        old.replace_all_uses_with(kept, replace_graph_outputs=True)
        node.graph.sort()  # a reader may come before the node that it reads now


def _fresh_name(graph: ir.Graph, stem: str) -> str:
    taken = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers)
    return next(name for i in count() if (name := f"{stem}_{i}") not in taken)
