"""Where a graph may choose tokens: what a TopK reads, which gathers it reaches, what could be tokens and output."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from tokfilter.export.fusion.shapes import Shapes

__all__ = [
    "FLOATS",
    "PROVEN",
    "RAN",
    "Guess",
    "Miss",
    "downstream",
    "fetches",
    "guesses",
    "rows_before",
    "scores_of",
    "sorts_positions",
    "whole_of",
]

FLOATS: Final = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_GATHERS: Final = ("Gather", "GatherElements", "GatherND")
# Operators that only cut rows out of a tensor or fold its first two dimensions: behind them lie the whole tokens.
_CUTS: Final = ("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze")
_FOLDS: Final = ("Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")


RAN: Final = 2
PROVEN: Final = 4


class Miss(Exception):  # noqa: N818 - no error: the reason why a look-alike stays as it is
    """Why a TopK is left alone, in words; ``closeness`` ranks the reasons of several readings of one TopK.

    0: it is something else. 1: it could not be run alone. RAN: it ran, plus the share of rows as wanted. PROVEN: it is
    a selection, and something else stands in the way.
    """

    def __init__(self, reason: str, closeness: float = 0) -> None:
        super().__init__(reason)
        self.closeness = closeness


@dataclass(frozen=True)
class Guess:
    """A reading of the graph to be tried: rows of ``tokens``, chosen by ``scores``, become ``left`` and then ``kept``.

    tokens: [B, R, C]
    scores: [B, N], or that with dimensions of 1
    left: row tensors that a Concat puts before ``kept``, none when there is no such Concat
    kept: [B, M, C]
    """

    tokens: ir.Value
    scores: ir.Value
    left: tuple[ir.Value, ...]
    kept: ir.Value


def sorts_positions(topk: ir.Node) -> bool:
    """Whether ``topk`` only puts another TopK's indices in order of position."""
    value = topk.inputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "TopK":
            return value.index() == 1
        if node.op_type not in ("Cast", *_CUTS):
            return False
        value = node.inputs[0]
    return False


def scores_of(topk: ir.Node, shapes: Shapes) -> ir.Value:
    """The scores of which ``topk`` keeps the highest. Raises Miss."""
    scores = topk.inputs[0]
    assert scores is not None
    dims = shapes.dims(scores)
    if dims is None:
        raise Miss(f"the shape of its scores {scores.name!r} is unknown")
    axis = topk.attributes.get_int("axis", -1) % len(dims)
    if axis == 0 or any(dim != 1 for i, dim in enumerate(dims) if i not in (0, axis)):
        raise Miss(f"it runs along axis {axis} of scores {_text(dims)}; wanted the patches of [batch, patches]")
    if not topk.attributes.get_int("largest", 1):
        # The largest of x are the smallest of -x, ties included; nothing else turns smallest into largest.
        negation = scores.producer()
        if negation is None or negation.op_type != "Neg" or negation.inputs[0] is None:
            raise Miss("it keeps the smallest scores (largest=0), TokenSelect keeps the highest")
        scores = negation.inputs[0]
    if (dtype := shapes.dtype(scores)) not in FLOATS:
        raise Miss(f"its scores are {dtype}; TokenSelect takes FLOAT, FLOAT16 or BFLOAT16")
    return scores


def downstream(value: ir.Value) -> set[ir.Value]:
    """``value`` and all that is computed from it."""
    found, waiting = {value}, [value]
    while waiting:
        for node, _ in waiting.pop().uses():
            fresh = [output for output in node.outputs if output not in found]
            found.update(fresh)
            waiting += fresh
    return found


def fetches(topk: ir.Node, cone: set[ir.Value], shapes: Shapes) -> list[ir.Node]:
    """Gathers that read ``topk``'s indices, and rows that do not depend on them; the widest rows first.

    cone: all that is computed from the indices
    Raises Miss when there is none.
    """
    readers = {node for value in cone for node, _ in value.uses() if node.op_type in _GATHERS}
    found = [n for n in topk.graph or () if n in readers and n.inputs[1] in cone and n.inputs[0] not in cone]
    if not found:
        raise Miss("its indices reach no gather of other rows")
    return sorted(found, key=lambda node: (not _token_rows(node.inputs[0], shapes), -_width(node, shapes)))


def guesses(fetch: ir.Node, scores: ir.Value, shapes: Shapes) -> Iterator[Guess]:
    """Readings of ``fetch`` worth a trial, the most complete first. Raises Miss when it cannot move token rows."""
    data = fetch.inputs[0]
    assert data is not None
    tokens = _token_rows(data, shapes)
    dims, axis = shapes.dims(data), fetch.attributes.get_int("axis", 0)
    if not tokens:
        where = f"{fetch.op_type} reads {data.name!r} of shape {_text(dims)}"
        raise Miss(f"{where}; TokenSelect takes [batch, tokens, channels]")
    if (dtype := shapes.dtype(data)) not in FLOATS:
        raise Miss(f"the gathered rows are {dtype}; TokenSelect takes FLOAT, FLOAT16 or BFLOAT16")
    if fetch.op_type == "GatherElements" and axis % len(dims or (0, 0, 0)) != 1:
        raise Miss(f"{fetch.op_type} gathers along axis {axis}; tokens lie along axis 1")
    for kept in reversed(list(_outlets(fetch.outputs[0]))):
        if left := rows_before(kept):
            yield from (Guess(whole, scores, left, kept) for whole in reversed(tokens))
        yield from (Guess(whole, scores, (), kept) for whole in reversed(tokens))


def rows_before(kept: ir.Value) -> tuple[ir.Value, ...]:
    """What a Concat along axis 1 puts before ``kept``, when nothing else reads ``kept``."""
    reader = _only_reader(kept)
    if reader is None or reader[0].op_type != "Concat" or reader[0].attributes.get_int("axis", 1) not in (1, -2):
        return ()
    return tuple(read for read in reader[0].inputs[: reader[1]] if read is not None)


def whole_of(value: ir.Value, shapes: Shapes) -> ir.Value | None:
    """The tensor [batch, rows, channels] that ``value`` is cut out of, as a prefix is cut out of tokens, or None."""
    found = [whole for whole in _token_rows(value, shapes) if whole is not value]
    return found[-1] if found else None


def _token_rows(value: ir.Value | None, shapes: Shapes) -> list[ir.Value]:
    """Tensors [batch, rows, channels] among ``value`` and what it was cut out of."""
    return [whole for whole in _uncut(value) if len(shapes.dims(whole) or ()) == 3]


def _uncut(value: ir.Value | None) -> Iterator[ir.Value]:
    """``value``, what it was cut out of, what that was cut out of, and so on."""
    while value is not None:
        yield value
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _CUTS else None


def _outlets(value: ir.Value) -> Iterator[ir.Value]:
    """``value`` and what folds or cuts it, as long as nothing else reads it."""
    yield value
    while (reader := _only_reader(value)) is not None and reader[0].op_type in _FOLDS and reader[1] == 0:
        value = reader[0].outputs[0]
        yield value


def _only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    uses = list(value.uses())
    return (uses[0].node, uses[0].idx) if len(uses) == 1 and not value.is_graph_output() else None


def _width(node: ir.Node, shapes: Shapes) -> int:
    dims = None if node.inputs[0] is None else shapes.dims(node.inputs[0])
    return dims[-1] if dims and isinstance(dims[-1], int) else 0


def _text(dims: tuple[int | ir.SymbolicDim, ...] | None) -> str:
    return "of unknown rank" if dims is None else f"[{', '.join(map(str, dims))}]"
