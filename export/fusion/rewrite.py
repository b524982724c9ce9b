"""The rewrite: pattern, check (with a reason), rewrite. It runs as an onnx-ir pass and keeps its count.

Why onnx-ir's passes and not onnxscript's pattern rewriter: a pattern there names every node between TopK and the
gather, and exporters disagree about those (the TorchScript exporter writes up to forty, mostly shape arithmetic); and
it replaces one output, while other readers of the indices must be led to the op's second one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tokfilter.export.fusion.apply import put_in_place
from tokfilter.export.fusion.equivalence import Proof, prove
from tokfilter.export.fusion.match import (
    PROVEN,
    RAN,
    Guess,
    Miss,
    downstream,
    fetches,
    guesses,
    rows_before,
    scores_of,
    sorts_positions,
    whole_of,
)
from tokfilter.export.fusion.shapes import Shapes

__all__ = ["NearMiss", "Site", "TokenSelectRewrite"]


@dataclass(frozen=True)
class Site:
    """A TokenSelect put in: its node, the tensors it reads and writes, its attributes, the operators that went away."""

    node: str
    tokens: str
    scores: str
    selected: str
    k: int
    prefix_tokens: int
    order: str
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class NearMiss:
    """A TopK that was left alone, and why."""

    node: str
    reason: str


class TokenSelectRewrite(ir.passes.InPlacePass):
    """Put TokenSelect in the place of every gather-after-top-k that is proven to be one.

    After the call, ``sites`` says what was replaced, and ``near_misses`` what was left alone and why. Sites inside
    functions and subgraphs are not rewritten. The function body and the opset import are the caller's to add.
    """

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.near_misses: list[NearMiss] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite ``model`` in place."""
        RemoveUnusedNodesPass()(model)
        shapes = Shapes(model)
        for topk in list(self.pattern(model.graph)):
            if topk.graph is None:  # went away with another site
                continue
            try:
                proof = self.check(topk, model, shapes)
            except Miss as miss:
                self.near_misses.append(NearMiss(topk.name or str(topk.outputs[1].name), str(miss)))
            else:
                self.sites.append(self.rewrite(proof, model, shapes))
        return ir.passes.PassResult(model, modified=bool(self.sites))

    def pattern(self, graph: ir.Graph) -> Iterator[ir.Node]:
        """Every TopK that could choose tokens."""
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.op_type == "TopK" and node.domain == "" and not sorts_positions(node):
                yield node

    def check(self, topk: ir.Node, model: ir.Model, shapes: Shapes) -> Proof:
        """The most complete reading of ``topk`` that is proven. Raises Miss with the reason when there is none."""
        if topk.graph is not model.graph:
            raise Miss("it stands in a subgraph; only the main graph is rewritten")
        scores = scores_of(topk, shapes)
        cone = downstream(topk.outputs[1])
        misses = []
        for fetch in fetches(topk, cone, shapes):
            try:
                proof = _proof(guesses(fetch, scores, shapes), topk, cone, model, shapes)
                _check_readers(topk, proof)
            except Miss as miss:
                misses.append(miss)
            else:
                return proof
        raise max(misses, key=lambda miss: miss.closeness)

    def rewrite(self, proof: Proof, model: ir.Model, shapes: Shapes) -> Site:
        """Replace what ``proof`` is about, and remove what nobody reads any more."""
        before = list(model.graph)
        node = put_in_place(proof, model, shapes)
        gone = tuple(old.op_type for old in before if old.graph is None)
        tensors = (str(proof.guess.tokens.name), str(proof.guess.scores.name), str(node.outputs[0].name))
        return Site(str(node.name), *tensors, proof.k, proof.prefix_tokens, proof.order, gone)


def _proof(readings: Iterator[Guess], topk: ir.Node, cone: set[ir.Value], model: ir.Model, shapes: Shapes) -> Proof:
    """The first reading that is proven. Raises the Miss that came closest."""
    misses: list[Miss] = []
    prefix_misses: list[Miss] = []
    for guess in readings:
        try:
            proof = prove(guess, topk, cone, model, shapes)
        except Miss as miss:
            (prefix_misses if guess.left else misses).append(miss)
            continue
        _check_defined(topk, proof.order == "position" and proof.width == proof.k)
        if not proof.prefix_tokens:
            _check_prefix(proof.guess, prefix_misses, shapes)
        return proof
    closest = max(misses + prefix_misses, key=lambda miss: miss.closeness)
    _check_defined(topk, closest.closeness < RAN)
    raise closest


def _check_defined(topk: ir.Node, order_does_not_matter: bool) -> None:
    """Without sorted=1, a TopK says which indices it returns but not where. Raises Miss."""
    if not topk.attributes.get_int("sorted", 1) and not order_does_not_matter:
        raise Miss(
            "it has sorted=0, so the order of its indices is undefined, and the rows are kept in that order", PROVEN
        )


def _check_prefix(guess: Guess, misses: list[Miss], shapes: Shapes) -> None:
    """Rows that a Concat puts before kept patches are either no slice of tokens, or the prefix. Raises Miss."""
    wholes = {whole for value in rows_before(guess.kept) if (whole := whole_of(value, shapes))}
    if wholes and misses:
        ours = whole_of(guess.tokens, shapes) or guess.tokens
        names = ", ".join(sorted(repr(whole.name) for whole in wholes))
        apart = f"they come from {names}, the kept rows from {ours.name!r}"
        reason = max(misses, key=lambda miss: miss.closeness) if ours in wholes else apart
        raise Miss(f"the rows put before the kept ones are not the first rows of the same tokens: {reason}", PROVEN)


def _check_readers(topk: ir.Node, proof: Proof) -> None:
    """Nothing may read TopK's results but through what the op replaces. Raises Miss that names the reader."""
    seen = {proof.guess.kept, *proof.indices}
    waiting = [value for value in topk.outputs if value not in seen]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            raise Miss(f"{value.name!r} is an output of the graph, and not the op's indices", PROVEN)
        for node, _ in value.uses():
            if node not in proof.nodes:
                what = "scores" if value is topk.outputs[0] else f"{value.name!r}"
                raise Miss(
                    f"{node.op_type} {node.name!r} reads {what} too, which the op's indices cannot serve", PROVEN
                )
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            waiting += fresh
