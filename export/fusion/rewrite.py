"""The rewrite as an onnx-ir pass: pattern, check (with a reason), rewrite, and lists of both.

Why an onnx-ir pass and not onnxscript's pattern rewriter: a pattern there names every node between TopK and the gather,
and exporters disagree about those (the TorchScript exporter writes up to forty, mostly shape arithmetic); and it
replaces one output, while other readers of the indices need the op's second one.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tokfilter.export.fusion.apply import insert_token_select
from tokfilter.export.fusion.equivalence import Equivalence, check_equivalence, ranks_of_rows
from tokfilter.export.fusion.match import (
    EQUIVALENT,
    RAN,
    Candidate,
    Mismatch,
    candidates,
    downstream,
    gathers,
    rows_before,
    scores_of,
    sorts_positions,
    source_of,
)
from tokfilter.export.fusion.probe import Ranking
from tokfilter.export.fusion.readers import Fusion, fusion_for_readers
from tokfilter.export.fusion.shapes import Shapes

__all__ = ["FusedSite", "NearMiss", "TokenSelectRewrite"]


@dataclass(frozen=True)
class FusedSite:
    """A TokenSelect that was inserted: its node, its tensors, its attributes, the operators that it replaced."""

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
    """A TopK that was not replaced, and the reason."""

    node: str
    reason: str


class TokenSelectRewrite(ir.passes.InPlacePass):
    """Replace every gather-after-top-k that is equivalent to TokenSelect.

    After the call, ``sites`` lists the inserted nodes, and ``near_misses`` each TopK that was not replaced, with the
    reason. Functions and subgraphs are not rewritten. The caller adds the function body and the opset import.
    """

    def __init__(self) -> None:
        self.sites: list[FusedSite] = []
        self.near_misses: list[NearMiss] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite ``model`` in place."""
        RemoveUnusedNodesPass()(model)
        shapes = Shapes(model)
        for topk in list(self.pattern(model.graph)):
            if topk.graph is None:  # removed with another site
                continue
            try:
                fusion = self.check(topk, model, shapes)
            except Mismatch as mismatch:
                self.near_misses.append(NearMiss(topk.name or str(topk.outputs[1].name), str(mismatch)))
            else:
                self.sites.append(self.rewrite(fusion, model, shapes))
        return ir.passes.PassResult(model, modified=bool(self.sites))

    def pattern(self, graph: ir.Graph) -> Iterator[ir.Node]:
        """Every TopK that may select tokens."""
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.op_type == "TopK" and node.domain == "" and not sorts_positions(node):
                yield node

    def check(self, topk: ir.Node, model: ir.Model, shapes: Shapes) -> Fusion:
        """The most complete candidate of ``topk`` that is equivalent. Raises Mismatch when there is none."""
        if topk.graph is not model.graph:
            raise Mismatch("it is in a subgraph; only the main graph is rewritten")
        scores = scores_of(topk, shapes)
        dependents = downstream(topk.outputs[1])
        mismatches = []
        found = gathers(topk, dependents, shapes)
        for gather in found:
            rest = [other for other in found if other is not gather]
            others = partial(_others, rest, scores, topk, dependents, model, shapes)
            ranks = partial(_ranks, rest, topk, model, shapes)
            try:
                equivalence = _equivalence(candidates(gather, scores, shapes), topk, dependents, model, shapes)
                return fusion_for_readers(topk, equivalence, others, ranks)
            except Mismatch as mismatch:
                mismatches.append(mismatch)
        raise max(mismatches, key=lambda mismatch: mismatch.closeness)

    def rewrite(self, fusion: Fusion, model: ir.Model, shapes: Shapes) -> FusedSite:
        """Insert the node and remove the nodes that have no readers left."""
        before = list(model.graph)
        node, rows = insert_token_select(fusion, model, shapes)
        removed = tuple(old.op_type for old in before if old.graph is None)
        equivalence = fusion.equivalence
        tensors = (str(equivalence.candidate.tokens.name), str(equivalence.candidate.scores.name), str(rows.name))
        order = equivalence.ranking.order
        return FusedSite(str(node.name), *tensors, equivalence.k, equivalence.prefix_tokens, order, removed)


def _equivalence(
    found: Iterator[Candidate], topk: ir.Node, dependents: set[ir.Value], model: ir.Model, shapes: Shapes
) -> Equivalence:
    """The first candidate that is equivalent. Raises the closest Mismatch."""
    mismatches: list[Mismatch] = []
    prefix_mismatches: list[Mismatch] = []
    for candidate in found:
        try:
            equivalence = check_equivalence(candidate, topk, dependents, model, shapes)
        except Mismatch as mismatch:
            (prefix_mismatches if candidate.left else mismatches).append(mismatch)
            continue
        whole = max(equivalence.ranks_shape) == equivalence.k
        _check_defined(topk, equivalence.ranking == Ranking("position") and whole)
        if not (equivalence.prefix_tokens or equivalence.ranking.mirrored or candidate.heads):
            _check_prefix(equivalence.candidate, prefix_mismatches, shapes)
        return equivalence
    closest = max(mismatches + prefix_mismatches, key=lambda mismatch: mismatch.closeness)
    _check_defined(topk, closest.closeness < RAN)
    raise closest


def _others(
    gathering: list[ir.Node],
    scores: ir.Value,
    topk: ir.Node,
    dependents: set[ir.Value],
    model: ir.Model,
    shapes: Shapes,
) -> list[Equivalence]:
    """The selections by the indices of ``topk`` around the nodes ``gathering``."""
    equivalences = []
    for gather in gathering:
        with suppress(Mismatch):
            alone = (c for c in candidates(gather, scores, shapes) if not c.left)
            equivalences.append(_equivalence(alone, topk, dependents, model, shapes))
    return equivalences


def _ranks(
    gathering: list[ir.Node], topk: ir.Node, model: ir.Model, shapes: Shapes, equivalence: Equivalence
) -> dict[ir.Value, tuple[int, int]]:
    """Rows that the nodes ``gathering`` take of the tokens of ``equivalence`` in the order of their scores."""
    found = {}
    for gather in gathering:
        with suppress(Mismatch):
            kept = next(candidates(gather, equivalence.candidate.scores, shapes)).kept  # with what reshapes the rows
            found[kept] = ranks_of_rows(kept, equivalence, topk, model, shapes)
    return found


def _check_defined(topk: ir.Node, order_does_not_matter: bool) -> None:
    """Without sorted=1, the order of a TopK's indices is undefined. Raises Mismatch where it matters."""
    if not topk.attributes.get_int("sorted", 1) and not order_does_not_matter:
        raise Mismatch(
            "it has sorted=0, so the order of its indices is undefined, and the rows are kept in that order", EQUIVALENT
        )


def _check_prefix(candidate: Candidate, mismatches: list[Mismatch], shapes: Shapes) -> None:
    """Rows that a Concat puts before the kept ones must be no slice of tokens, or the prefix. Raises Mismatch."""
    wholes = {whole for value in rows_before(candidate.kept) if (whole := source_of(value, shapes))}
    if wholes and mismatches:
        ours = source_of(candidate.tokens, shapes) or candidate.tokens
        names = ", ".join(sorted(repr(whole.name) for whole in wholes))
        apart = f"they come from {names}, the kept rows from {ours.name!r}"
        reason = max(mismatches, key=lambda mismatch: mismatch.closeness) if ours in wholes else apart
        raise Mismatch(
            f"the rows put before the kept ones are not the first rows of the same tokens: {reason}", EQUIVALENT
        )
