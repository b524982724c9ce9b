"""Whether a candidate is equivalent to TokenSelect: its nodes are run and compared with the reference.

The nodes between tokens, scores and kept rows are cut out and checked to move rows and nothing else. They are run on
rows that are all different, with scores that are all different until every position has been kept once, and with scores
full of ties; at two batch sizes where the batch is free. Each result must equal ``kernels/reference.py`` bit for bit.
"""

from dataclasses import dataclass

import onnx_ir as ir

from tokfilter.export.fusion.fragment import Fragment, FragmentError
from tokfilter.export.fusion.match import FLOATS, RAN, Candidate, Mismatch
from tokfilter.export.fusion.probe import Probe, probe_scores, probe_tokens
from tokfilter.export.fusion.shapes import Shapes
from tokfilter.kernels.op import ORDERS

__all__ = ["Equivalence", "check_equivalence"]

# Operators that change no element of a tensor.
_MOVERS = {
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Shape", "Size"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True)
class Equivalence:
    """A candidate with the TokenSelect that it is equivalent to.

    width: number of indices that the TopK returns per image
    indices: index tensors inside that equal the op's ``indices`` output
    nodes: the nodes that compute the kept rows from tokens and scores
    """

    candidate: Candidate
    k: int
    prefix_tokens: int
    order: str
    width: int
    indices: tuple[ir.Value, ...]
    nodes: frozenset[ir.Node]


def check_equivalence(
    candidate: Candidate, topk: ir.Node, dependents: set[ir.Value], model: ir.Model, shapes: Shapes
) -> Equivalence:
    """Run ``candidate`` and find k, the prefix and the order. Raises Mismatch with the reason.

    dependents: every value that is computed from the indices of ``topk``
    """
    budget = None if topk.inputs[1] is None else ir.convenience.get_const_tensor(topk.inputs[1])
    sizes = shapes.probe_sizes(
        candidate.tokens, candidate.scores, least=2 if budget is None else int(budget.numpy().item())
    )
    outputs = [*candidate.left, candidate.kept]
    fragment = Fragment(candidate.tokens, candidate.scores, outputs, shapes, sizes[0])
    _check_moves_only(fragment, candidate, topk)
    inner = [value for value in fragment.computed() if value in dependents and shapes.dtype(value) not in FLOATS]
    fragment.outputs += [value for value in inner if value not in outputs]
    try:
        probes = _run(fragment, model, candidate, shapes, sizes)
    except FragmentError as error:
        raise Mismatch(f"its nodes do not run alone: {str(error).splitlines()[0]}", 1) from error
    k, prefix = _budget(probes)
    order = _order(probes, k, prefix)
    equal = tuple(v for v in inner if all(probe.gives_indices(v, k, prefix, order) for probe in probes))
    ranked = probes[0].results[topk.outputs[1]]
    return Equivalence(candidate, k, prefix, order, ranked.size // len(ranked), equal, frozenset(fragment.nodes))


def _check_moves_only(fragment: Fragment, candidate: Candidate, topk: ir.Node) -> None:
    """Raise Mismatch unless the rows depend on tokens and scores only and are moved only, and scores only rank."""
    if fragment.outside:
        names = ", ".join(sorted(repr(value.name) for value in fragment.outside))
        known = f"{candidate.tokens.name!r}, {candidate.scores.name!r} and shapes"
        raise Mismatch(f"the rows also depend on {names}, not only on {known}", 1)
    moved, ranks = {candidate.tokens}, {candidate.scores, topk.outputs[0]}
    negation = None if topk.inputs[0] in ranks or topk.inputs[0] is None else topk.inputs[0].producer()
    for node in topk.graph or ():
        if node not in fragment.nodes or node.op_type in ("Shape", "Size"):
            continue
        if moved.intersection(node.inputs):
            if node.op_type not in _MOVERS:
                raise Mismatch(f"{node.op_type} {node.name!r} computes with the rows", 1)
            moved.update(node.outputs)
        if ranks.intersection(node.inputs) and node not in (topk, negation):
            raise Mismatch(f"{node.op_type} {node.name!r} uses the scores for more than their order", 1)


def _run(
    fragment: Fragment, model: ir.Model, candidate: Candidate, shapes: Shapes, sizes: list[dict[str, int]]
) -> list[Probe]:
    session = fragment.session(model)
    probes: list[Probe] = []
    for at in sizes:
        tokens = probe_tokens(shapes.at(candidate.tokens, at))
        for tied, scores in probe_scores(shapes.at(candidate.scores, at), lambda: probes[-1].kept):
            results = fragment.run(session, tokens, scores, at)
            probes.append(Probe(tied, tokens, scores, [results[v] for v in (*candidate.left, candidate.kept)], results))
    return probes


def _budget(probes: list[Probe]) -> tuple[int, int]:
    """k and the number of prefix tokens. Raises Mismatch."""
    budgets = {probe.kept for probe in probes}
    if len(budgets) > 1:
        found = " or ".join(map(str, sorted(budgets)))
        raise Mismatch(f"its budget follows the shape: k is {found}; TokenSelect needs a constant", RAN + 1)
    return probes[0].kept, probes[0].prefix


def _order(probes: list[Probe], k: int, prefix: int) -> str:
    """The order for which all probes equal the reference. Raises Mismatch with the first difference."""
    for order in ORDERS:
        if all(probe.gives_rows(k, prefix, order) for probe in probes):
            return order
    distinct = [probe for probe in probes if not probe.tied]
    if any(all(probe.gives_rows(k, prefix, order) for probe in distinct) for order in ORDERS):
        raise Mismatch(
            "equal scores are ranked the other way round: TokenSelect keeps the lower position first", RAN + 1
        )
    wrong = next(probe for probe in distinct if not probe.gives_rows(k, prefix, "score"))
    raise Mismatch(wrong.first_difference(k, prefix), RAN + wrong.fraction_of_right_rows(k, prefix))
