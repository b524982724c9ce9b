"""Whether a candidate is equivalent to TokenSelect: its nodes are run and compared with the reference.

The nodes between tokens, scores and kept rows are cut out and checked to move rows and nothing else. They are run on
rows that are all different, with scores that are all different until every position has been kept once, and with scores
full of ties; at two batch sizes where the batch is free. Each result must equal ``kernels/reference.py`` bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from tokfilter.export.fusion.fragment import Fragment, FragmentError
from tokfilter.export.fusion.match import EQUIVALENT, FLOATS, RAN, Candidate, Mismatch
from tokfilter.export.fusion.probe import BY_SCORE, RANKINGS, Probe, Ranking, probe_of_run, probe_scores, probe_tokens
from tokfilter.export.fusion.shapes import Shapes

__all__ = ["Equivalence", "check_equivalence", "ranks_of_rows"]

# Operators that change no element of a tensor.
_MOVERS = {
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Shape", "Size"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True)
class Equivalence:
    """A candidate with the TokenSelect that it is equivalent to.

    ranks_shape: shape of the TopK's indices behind the batch
    ranked: the number of patches, when those indices rank all of them; None otherwise
    indices: index tensors inside that equal the op's ``indices`` output, with their shapes behind the batch: [k], or
        that with dimensions of 1
    nodes: the nodes that compute the kept rows from tokens and scores
    """

    candidate: Candidate
    k: int
    prefix_tokens: int
    ranking: Ranking
    ranks_shape: tuple[int, ...]
    ranked: int | None
    indices: Mapping[ir.Value, tuple[int, ...]]
    nodes: frozenset[ir.Node]


def check_equivalence(
    candidate: Candidate, topk: ir.Node, dependents: set[ir.Value], model: ir.Model, shapes: Shapes
) -> Equivalence:
    """Run ``candidate`` and find k, the prefix and the order. Raises Mismatch with the reason.

    dependents: every value that is computed from the indices of ``topk``
    """
    sizes = _sizes(candidate, topk, shapes)
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
    ranking = _ranking(probes, k, prefix)
    if all(probe.kept == probe.patches for probe in probes):
        raise Mismatch(f"it keeps all {k} patches and only reorders them: no token is dropped", EQUIVALENT)
    # The op's own indices count from the other end where it reads the patches in reverse.
    positions = [] if ranking.mirrored else inner
    equal = {v: probes[0].results[v].shape[1:] for v in positions if _gives_indices(probes, v, k, prefix, ranking)}
    shape = probes[0].results[topk.outputs[1]].shape[1:]
    nodes = frozenset(fragment.nodes)
    return Equivalence(candidate, k, prefix, ranking, shape, _ranked(probes, topk), equal, nodes)


def ranks_of_rows(
    rows: ir.Value, equivalence: Equivalence, topk: ir.Node, model: ir.Model, shapes: Shapes
) -> tuple[int, int]:
    """First rank and the one behind the last of ``rows``, patches of the same tokens in the order of their scores.

    Raises Mismatch.
    """
    candidate = replace(equivalence.candidate, left=(), kept=rows)
    sizes = _sizes(candidate, topk, shapes)
    fragment = Fragment(candidate.tokens, candidate.scores, [rows], shapes, sizes[0])
    _check_moves_only(fragment, candidate, topk)
    try:
        probes = _run(fragment, model, candidate, shapes, sizes, equivalence.k)
    except FragmentError as error:
        raise Mismatch(f"its nodes do not run alone: {str(error).splitlines()[0]}", 1) from error
    spans = {probe.ranks_of_rows(equivalence.prefix_tokens) for probe in probes}
    span = spans.pop()
    if span is None or spans:
        raise Mismatch(f"{rows.name!r} are no patches of successive ranks", RAN)
    return span


def _sizes(candidate: Candidate, topk: ir.Node, shapes: Shapes) -> list[dict[str, int]]:
    budget = None if topk.inputs[1] is None else ir.convenience.get_const_tensor(topk.inputs[1])
    least = 2 if budget is None else int(budget.numpy().item())
    return shapes.probe_sizes(candidate.tokens, candidate.scores, least)


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
    fragment: Fragment,
    model: ir.Model,
    candidate: Candidate,
    shapes: Shapes,
    sizes: list[dict[str, int]],
    k: int | None = None,
) -> list[Probe]:
    """Probes at all ``sizes``; ``k`` is the number of patches kept, by default what the first run gives."""
    session = fragment.session(model)
    probes: list[Probe] = []
    for at in sizes:
        tokens, shape = probe_tokens(shapes.at(candidate.tokens, at)), shapes.at(candidate.scores, at)
        for tied, scores in probe_scores(shape, 1 + candidate.head_scores, lambda: k or probes[-1].kept):
            results = fragment.run(session, tokens, scores, at)
            parts = [results[value] for value in (*candidate.left, candidate.kept)]
            probes.append(probe_of_run(tied, tokens, scores, parts, results, candidate))
    return probes


def _budget(probes: list[Probe]) -> tuple[int, int]:
    """k and the number of prefix tokens. Raises Mismatch."""
    budgets = {probe.kept for probe in probes}
    if len(budgets) > 1 and any(probe.kept < probe.patches for probe in probes):
        found = " or ".join(map(str, sorted(budgets)))
        raise Mismatch(f"its budget follows the shape: k is {found}; TokenSelect needs a constant", RAN + 1)
    return probes[0].kept, probes[0].prefix


def _gives_indices(probes: list[Probe], value: ir.Value, k: int, prefix: int, ranking: Ranking) -> bool:
    return all(probe.gives_indices(value, k, prefix, ranking) for probe in probes)


def _ranked(probes: list[Probe], topk: ir.Node) -> int | None:
    """The number of patches, when the indices of ``topk`` are the ranks of all of them at every size."""
    patches = {probe.patches for probe in probes}
    n = patches.pop()
    return n if not patches and _gives_indices(probes, topk.outputs[1], n, probes[0].prefix, BY_SCORE) else None


def _ranking(probes: list[Probe], k: int, prefix: int) -> Ranking:
    """The ranking for which all probes equal the reference. Raises Mismatch with the first difference."""
    for ranking in RANKINGS:
        if all(probe.gives_rows(probe.kept, prefix, ranking) for probe in probes):
            return ranking
    distinct = [probe for probe in probes if not probe.tied]
    if all(probe.gives_smallest(probe.kept, prefix) for probe in distinct):
        raise Mismatch("it keeps the smallest scores, TokenSelect keeps the highest", RAN + 1)
    if any(all(probe.gives_rows(probe.kept, prefix, ranking) for probe in distinct) for ranking in RANKINGS):
        raise Mismatch(
            "equal scores are ranked the other way round: TokenSelect keeps the lower position first", RAN + 1
        )
    wrong = next(probe for probe in distinct if not probe.gives_rows(probe.kept, prefix, BY_SCORE))
    raise Mismatch(wrong.first_difference(wrong.kept, prefix), RAN + wrong.fraction_of_right_rows(wrong.kept, prefix))
