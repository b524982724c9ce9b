"""Putting a TokenSelect node into a graph in the place of what was proven to be one."""

from itertools import count

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tokfilter.export.fusion.equivalence import Proof
from tokfilter.export.fusion.shapes import Shapes
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

__all__ = ["put_in_place"]


def put_in_place(proof: Proof, model: ir.Model, shapes: Shapes) -> ir.Node:
    """Insert TokenSelect for ``proof``, lead every reader to it, remove dead nodes. Returns the node."""
    graph, guess = model.graph, proof.guess
    after = guess.kept.producer() if not guess.left else next(iter(guess.kept.uses())).node
    assert after is not None
    flat = _flat_scores(guess.scores, shapes, graph)
    scores = flat[0].outputs[0] if flat else guess.scores
    node = ir.node(NAME, [guess.tokens, scores], _attributes(proof), domain=DOMAIN, num_outputs=2)
    graph.insert_before(after, [*flat, node])
    node.name = _fresh_name(graph, NAME)
    selected, indices = node.outputs
    _replace_rows(selected, after, proof)
    if selected.name is None:
        selected.name = f"{node.name}_selected"
    indices.name, indices.dtype = f"{node.name}_indices", ir.DataType.INT32
    shapes.record(selected, like=guess.tokens, rows=proof.prefix_tokens + proof.k)
    RemoveUnusedNodesPass()(model)
    _serve_readers(indices, node, proof, shapes)
    RemoveUnusedNodesPass()(model)
    return node


def _attributes(proof: Proof) -> dict[str, int | str]:
    own: dict[str, int | str] = {"k": proof.k, "prefix_tokens": proof.prefix_tokens, "order": proof.order}
    return own | {"plugin_namespace": DOMAIN, "plugin_version": VERSION}


def _flat_scores(scores: ir.Value, shapes: Shapes, graph: ir.Graph) -> list[ir.Node]:
    """A node that brings scores such as [B, N, 1] to [B, N], or none. Flatten means the same in every opset."""
    if len(shapes.dims(scores) or ()) == 2:
        return []
    node = ir.node("Flatten", [scores], {"axis": 1})
    node.name = _fresh_name(graph, "TokenSelect_scores")
    node.outputs[0].name = node.name
    return [node]


def _replace_rows(selected: ir.Value, after: ir.Node, proof: Proof) -> None:
    """Lead the readers of the kept rows to ``selected``; a Concat keeps only what follows them."""
    old = after.outputs[0] if proof.guess.left else proof.guess.kept
    taken = len(proof.guess.left) + 1
    if proof.guess.left and len(after.inputs) > taken:
        rest = list(after.inputs[taken:])
        for position, value in enumerate([selected, *rest]):
            after.replace_input_with(position, value)
        after.resize_inputs(1 + len(rest))
        selected.type = proof.guess.tokens.type
        return
    selected.name, old.name = old.name, None
    selected.type, selected.shape = old.type, old.shape
    old.replace_all_uses_with(selected, replace_graph_outputs=True)


def _serve_readers(indices: ir.Value, node: ir.Node, proof: Proof, shapes: Shapes) -> None:
    """Lead who else reads the kept positions to the op's second output."""
    for old in proof.indices:
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
        node.graph.sort()  # a reader may stand before the node that serves it now


def _fresh_name(graph: ir.Graph, stem: str) -> str:
    taken = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers)
    return next(name for i in count() if (name := f"{stem}_{i}") not in taken)
