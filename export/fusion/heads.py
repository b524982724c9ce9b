"""Tokens with heads [B, H, R, C] for an op that takes [B, R, C]: each head becomes an image of its own.

No token is copied: the heads of an image lie one behind the other. Only scores that all heads share are repeated.
"""

import onnx_ir as ir

from tokfilter.export.fusion.match import Candidate
from tokfilter.export.fusion.new_nodes import NewNodes
from tokfilter.export.fusion.shapes import Shapes

__all__ = ["scores_of_all_images", "tokens_of_all_images", "with_heads"]


def tokens_of_all_images(candidate: Candidate, new: NewNodes, shapes: Shapes) -> ir.Value:
    """Tokens [B, R, C], or [B * H, R, C] with heads."""
    if not candidate.heads:
        return candidate.tokens
    return new.add("Reshape", candidate.tokens, new.numbers(-1, *_rows_and_channels(candidate, shapes)))


def scores_of_all_images(candidate: Candidate, prefix: int, new: NewNodes, shapes: Shapes) -> ir.Value:
    """Scores [B, N], or [B * H, N] with heads."""
    scores = candidate.scores
    if candidate.head_scores:
        return new.add("Flatten", scores, axis=2)
    if len(shapes.dims(scores) or ()) != 2:
        scores = new.add("Flatten", scores, axis=1)  # the same in every opset
    if candidate.heads:
        rows, _ = _rows_and_channels(candidate, shapes)
        repeated = new.add("Tile", scores, new.numbers(1, candidate.heads))
        scores = new.add("Reshape", repeated, new.numbers(-1, rows - prefix))
    return scores


def with_heads(rows: ir.Value, count: int, candidate: Candidate, new: NewNodes, shapes: Shapes) -> ir.Value:
    """Rows [B * H, count, C] as [B, H, count, C]; without heads as they are."""
    if not candidate.heads:
        return rows
    _, channels = _rows_and_channels(candidate, shapes)
    return new.add("Reshape", rows, new.numbers(-1, candidate.heads, count, channels))


def _rows_and_channels(candidate: Candidate, shapes: Shapes) -> tuple[int, int]:
    rows, channels = (shapes.dims(candidate.tokens) or ())[-2:]
    assert isinstance(rows, int)  # ``match`` takes no others
    assert isinstance(channels, int)
    return rows, channels
