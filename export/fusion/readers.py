"""What else reads the results of a TopK, and whether the op can serve those readers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from tokfilter.export.fusion.equivalence import Equivalence
from tokfilter.export.fusion.match import EQUIVALENT, Mismatch

__all__ = ["Fusion", "fusion_for_readers"]


@dataclass(frozen=True)
class Fusion:
    """An equivalence, and what serves the other readers of its TopK.

    budget: k of the node: the equivalence's, or the number of patches where the whole ranking is read
    indices: tensors that equal the op's ``indices``, with their shapes behind the batch
    others: other tensors whose rows are kept by the same indices
    ranks: rows of the same tokens that the whole ranking gives, with their first rank and the one behind the
        last
    """

    equivalence: Equivalence
    topk: ir.Node
    budget: int
    indices: dict[ir.Value, tuple[int, ...]]
    others: tuple[Equivalence, ...] = ()
    ranks: Mapping[ir.Value, tuple[int, int]] = field(default_factory=dict)


def fusion_for_readers(
    topk: ir.Node,
    equivalence: Equivalence,
    others: Callable[[], list[Equivalence]],
    ranks: Callable[[Equivalence], dict[ir.Value, tuple[int, int]]],
) -> Fusion:
    """The cheapest fusion that serves every reader of ``topk``. Raises Mismatch that names one without it.

    others: finds selections of other tensors by the indices of ``topk``
    ranks: finds rows of the same tokens that the indices of ``topk`` gather in their order
    """
    closest = None
    for fusion in _fusions(topk, equivalence, others, ranks):
        try:
            _check_readers(topk, fusion)
        except Mismatch as mismatch:
            closest = closest or mismatch
        else:
            return fusion
    assert closest is not None
    raise closest


def _fusions(
    topk: ir.Node,
    equivalence: Equivalence,
    others: Callable[[], list[Equivalence]],
    ranks: Callable[[Equivalence], dict[ir.Value, tuple[int, int]]],
) -> Iterator[Fusion]:
    k, ranking, indices = equivalence.k, equivalence.ranking, dict(equivalence.indices)
    yield Fusion(equivalence, topk, k, indices)
    if ranking.mirrored:
        return
    heads = equivalence.candidate.heads, equivalence.candidate.head_scores
    same = [
        other
        for other in others()
        if (other.k, other.ranking, other.candidate.heads, other.candidate.head_scores) == (k, ranking, *heads)
    ]
    if same:
        yield Fusion(equivalence, topk, k, indices, tuple(same))
    # The dropped rows are read, too: the op ranks all, and the first k of its rows are the kept ones.
    if equivalence.ranked is not None and ranking.order == "score":
        indices = {topk.outputs[1]: equivalence.ranks_shape}
        yield Fusion(equivalence, topk, equivalence.ranked, indices, ranks=ranks(equivalence))


def _check_readers(topk: ir.Node, fusion: Fusion) -> None:
    """Nothing else may read TopK's results, but for what the op serves. Raises Mismatch that names the reader."""
    replaced = (fusion.equivalence, *fusion.others)
    nodes = frozenset[ir.Node]().union(*(equivalence.nodes for equivalence in replaced))
    seen = {*(equivalence.candidate.kept for equivalence in replaced), *fusion.indices}
    if topk.outputs[1] in fusion.indices:  # then the highest scores are those at the op's indices
        seen.add(topk.outputs[0])
    waiting = [value for value in topk.outputs if value not in seen]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            raise Mismatch(f"{value.name!r} is an output of the graph, and not the op's indices", EQUIVALENT)
        for node, _ in value.uses():
            if node not in nodes:
                what = "scores" if value is topk.outputs[0] else f"{value.name!r}"
                raise Mismatch(
                    f"{node.op_type} {node.name!r} reads {what} too, which the op's indices cannot serve", EQUIVALENT
                )
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            waiting += fresh
