"""Candidates for TokenSelect: the scores of a TopK, the gathers of its indices, possible tokens and outputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from tokfilter.export.fusion.shapes import Shapes

__all__ = [
    "EQUIVALENT",
    "FLOATS",
    "RAN",
    "Candidate",
    "Mismatch",
    "candidates",
    "downstream",
    "gathers",
    "rows_before",
    "scores_of",
    "sorts_positions",
    "source_of",
]

FLOATS: Final = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_GATHERS: Final = ("Gather", "GatherElements", "GatherND")
# Operators that only slice rows of a tensor or merge its first two dimensions: their input may be the whole tokens.
_CUTS: Final = ("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze")
_FOLDS: Final = ("Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")
_HEADS: Final = 4  # rank of [batch, heads, tokens, channels], which a Transpose makes of tokens and turns back


RAN: Final = 2
EQUIVALENT: Final = 4


class Mismatch(Exception):  # noqa: N818 - no error: the reason why a TopK is not replaced
    """Why a TopK is not replaced; ``closeness`` ranks the reasons of several candidates of one TopK.

    0: it is something else. 1: its nodes could not be run alone. RAN: they ran; plus the fraction of right rows.
    EQUIVALENT: it is a selection, but cannot be replaced for another reason.
    """

    def __init__(self, reason: str, closeness: float = 0) -> None:
        super().__init__(reason)
        self.closeness = closeness


@dataclass(frozen=True)
class Candidate:
    """Values that may be those of a TokenSelect: rows of ``tokens``, ranked by ``scores``, are ``left`` and ``kept``.

    tokens: [B, R, C], or [B, H, R, C] with heads, each of which TokenSelect takes for an image of its own
    scores: [B, N], or that with dimensions of 1, or [B, H, N] where each head ranks for itself
    left: row tensors that a Concat puts before ``kept``; none without such a Concat
    kept: [B, M, C], or [B, H, M, C] with heads
    heads: H, or 0
    head_scores: the scores are [B, H, N]
    """

    tokens: ir.Value
    scores: ir.Value
    left: tuple[ir.Value, ...]
    kept: ir.Value
    heads: int = 0
    head_scores: bool = False


def sorts_positions(topk: ir.Node) -> bool:
    """Whether ``topk`` only sorts another TopK's indices by position."""
    value = topk.inputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "TopK":
            return value.index() == 1
        if node.op_type not in ("Cast", *_CUTS):
            return False
        value = node.inputs[0]
    return False


def scores_of(topk: ir.Node, shapes: Shapes) -> ir.Value:
    """The scores of which ``topk`` keeps the highest. Raises Mismatch."""
    scores = topk.inputs[0]
    assert scores is not None
    dims = shapes.dims(scores)
    if dims is None:
        raise Mismatch(f"the shape of its scores {scores.name!r} is unknown")
    axis = topk.attributes.get_int("axis", -1) % len(dims)
    of_heads = axis == _HEADS - 2 and _ranks_heads(scores, shapes)
    if axis == 0 or (any(dim != 1 for i, dim in enumerate(dims) if i not in (0, axis)) and not of_heads):
        raise Mismatch(f"it runs along axis {axis} of scores {_text(dims)}; expected the patches of [batch, patches]")
    if (dtype := shapes.dtype(scores)) is not None and dtype.is_integer():
        raise Mismatch(f"it sorts integers ({dtype}), such as positions, and no scores")
    if dtype not in FLOATS:
        raise Mismatch(f"its scores are {dtype}; TokenSelect takes FLOAT, FLOAT16 or BFLOAT16")
    negation = scores.producer()
    if not topk.attributes.get_int("largest", 1) and negation is not None and negation.op_type == "Neg":
        # The largest of x are the smallest of -x, ties included. Other smallest scores are left to the equivalence
        # check: the last k of all scores in ascending order are the highest.
        assert negation.inputs[0] is not None
        return negation.inputs[0]
    return scores


def downstream(value: ir.Value) -> set[ir.Value]:
    """``value`` and every value that is computed from it."""
    found, waiting = {value}, [value]
    while waiting:
        for node, _ in waiting.pop().uses():
            fresh = [output for output in node.outputs if output not in found]
            found.update(fresh)
            waiting += fresh
    return found


def gathers(topk: ir.Node, dependents: set[ir.Value], shapes: Shapes) -> list[ir.Node]:
    """Gathers that take ``topk``'s indices and rows that do not depend on them; the widest rows first.

    dependents: every value that is computed from the indices
    Raises Mismatch when there is none.
    """
    readers = {node for value in dependents for node, _ in value.uses() if node.op_type in _GATHERS}
    found = [
        n for n in topk.graph or () if n in readers and n.inputs[1] in dependents and n.inputs[0] not in dependents
    ]
    if not found:
        raise Mismatch("its indices reach no gather of other rows")
    return sorted(found, key=lambda node: (not _token_rows(node.inputs[0], shapes), -_width(node, shapes)))


def candidates(gather: ir.Node, scores: ir.Value, shapes: Shapes) -> Iterator[Candidate]:
    """Candidates around ``gather``, the most complete first. Raises Mismatch when it cannot move token rows."""
    data = gather.inputs[0]
    assert data is not None
    tokens = _token_rows(data, shapes)
    dims, axis = shapes.dims(data), gather.attributes.get_int("axis", 0)
    with_heads, head_scores = _rows_with_heads(data, scores, shapes), _ranks_heads(scores, shapes)
    if not tokens and not with_heads:
        where = f"{gather.op_type} reads {data.name!r} of shape {_text(dims)}"
        raise Mismatch(f"{where}; TokenSelect takes [batch, tokens, channels]")
    if (dtype := shapes.dtype(data)) not in FLOATS:
        raise Mismatch(f"the gathered rows are {dtype}; TokenSelect takes FLOAT, FLOAT16 or BFLOAT16")
    tokens_axis = len(dims or (0, 0, 0)) - 2  # of [batch, tokens, channels] and of [batch, heads, tokens, channels]
    if gather.op_type == "GatherElements" and axis % len(dims or (0, 0, 0)) != tokens_axis:
        raise Mismatch(f"{gather.op_type} gathers along axis {axis}; tokens lie along axis {tokens_axis}")
    for kept in reversed(list(_outlets(gather.outputs[0], shapes))):
        if left := rows_before(kept):
            yield from (Candidate(whole, scores, left, kept) for whole in reversed(tokens))
        yield from (Candidate(whole, scores, (), kept) for whole in reversed(tokens))
        yield from (Candidate(whole, scores, (), kept, heads, head_scores) for whole, heads in reversed(with_heads))


def rows_before(kept: ir.Value) -> tuple[ir.Value, ...]:
    """Values that a Concat along axis 1 puts before ``kept``, when nothing else reads ``kept``."""
    reader = _only_reader(kept)
    if reader is None or reader[0].op_type != "Concat" or reader[0].attributes.get_int("axis", 1) not in (1, -2):
        return ()
    return tuple(read for read in reader[0].inputs[: reader[1]] if read is not None)


def source_of(value: ir.Value, shapes: Shapes) -> ir.Value | None:
    """The tensor [batch, rows, channels] that ``value`` is a slice of, as a prefix is of tokens, or None."""
    found = [whole for whole in _token_rows(value, shapes) if whole is not value]
    return found[-1] if found else None


def _token_rows(value: ir.Value | None, shapes: Shapes) -> list[ir.Value]:
    """Tensors [batch, rows, channels] among ``value`` and those that it is a slice of."""
    return [whole for whole in _uncut(value, shapes) if len(shapes.dims(whole) or ()) == 3]


def _rows_with_heads(value: ir.Value, scores: ir.Value, shapes: Shapes) -> list[tuple[ir.Value, int]]:
    """Tensors [batch, heads, rows, channels] that ``value`` is or is a slice of, all but the batch known; their heads.

    scores: ranks the rows of all heads, or those of as many heads
    """
    heads = (shapes.dims(scores) or ())[1:2] if _ranks_heads(scores, shapes) else None
    found = []
    for whole in _uncut(value, shapes):
        dims = shapes.dims(whole) or ()
        fits = heads in (None, dims[1:2])
        if len(dims) == _HEADS and isinstance(dims[1], int) and all(isinstance(n, int) for n in dims[2:]) and fits:
            found.append((whole, dims[1]))
    return found


def _ranks_heads(scores: ir.Value, shapes: Shapes) -> bool:
    """Whether scores [batch, heads, patches] rank the patches of each head."""
    dims = shapes.dims(scores) or ()
    return len(dims) == _HEADS - 1 and dims[1] != 1 and dims[2] != 1


def _uncut(value: ir.Value | None, shapes: Shapes) -> Iterator[ir.Value]:
    """``value``, the value that it is a slice of or whose channels it splits into heads, and so on."""
    while value is not None:
        yield value
        node = value.producer()
        value = node.inputs[0] if node is not None and (node.op_type in _CUTS or _splits_heads(node, shapes)) else None


def _splits_heads(node: ir.Node, shapes: Shapes) -> bool:
    return node.op_type == "Transpose" and len(shapes.dims(node.outputs[0]) or ()) == _HEADS


def _outlets(value: ir.Value, shapes: Shapes) -> Iterator[ir.Value]:
    """``value`` and its reshaped or sliced forms, as long as each has one reader."""
    yield value
    while (reader := _only_reader(value, rows_only=True)) is not None and reader[1] == 0:
        if reader[0].op_type not in _FOLDS and not _splits_heads(reader[0], shapes):
            return
        value = reader[0].outputs[0]
        yield value


def _only_reader(value: ir.Value, rows_only: bool = False) -> tuple[ir.Node, int] | None:
    """The one reader of ``value`` and which of its inputs it is.

    rows_only: nodes that read no more than the shape do not count
    """
    uses = [use for use in value.uses() if rows_only is False or use.node.op_type not in ("Shape", "Size")]
    return (uses[0].node, uses[0].idx) if len(uses) == 1 and not value.is_graph_output() else None


def _width(node: ir.Node, shapes: Shapes) -> int:
    dims = None if node.inputs[0] is None else shapes.dims(node.inputs[0])
    return dims[-1] if dims and isinstance(dims[-1], int) else 0


def _text(dims: tuple[int | ir.SymbolicDim, ...] | None) -> str:
    return "of unknown rank" if dims is None else f"[{', '.join(map(str, dims))}]"
