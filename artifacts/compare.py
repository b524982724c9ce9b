"""One engine's outputs held against torch's: how far apart they are, and whether that is close enough.

Two questions are kept apart. Which tokens were kept? A difference is forgiven only between tokens whose scores are
nearly equal. Given the tokens that were kept, are the logits right? There torch is run on the very same tokens, so that
a forgiven choice hides no wrong arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SCORE_GAP",
    "TOLERANCES",
    "Choice",
    "Deviation",
    "Tolerance",
    "choice_from_indices",
    "deviation_from_logits",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]


@dataclass(frozen=True)
class Tolerance:
    """How far a graph may be from torch in fp32.

    relative: largest difference of a logit, over the largest logit of the same image
    cosine: least cosine between the logits of an image
    """

    relative: float
    cosine: float


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    "fp32": Tolerance(relative=1e-4, cosine=0.999999),
    "fp16": Tolerance(relative=2e-2, cosine=0.9999),
    "bf16": Tolerance(relative=1.5e-1, cosine=0.99),
}
"""What each precision is held to. bf16 has 8 significant bits, fp16 has 11; a dozen blocks multiply their rounding."""

SCORE_GAP: Final = 2e-5
"""Scores nearer than this times max(1, largest score) count as equal. Every precision computes its scores in fp32."""


@dataclass(frozen=True)
class Choice:
    """Kept tokens of a batch against the reference's.

    overlap: share of kept tokens in common, [B]
    near_ties: tokens that differ and may
    gap: largest difference in score between a token that was left out and the one kept in its place
    worst: (row, patch position) of that token; None when nothing differs
    """

    overlap: NDArray[np.float64]
    near_ties: int
    gap: float
    worst: tuple[int, int] | None
    complaints: tuple[str, ...]


@dataclass(frozen=True)
class Deviation:
    """Logits of a batch against the reference's. ``worst`` is the row with the largest relative difference."""

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    top1: float
    worst: int
    complaints: tuple[str, ...]


def choice_from_indices(found: NDArray[Any], expected: Indices, scores: Floats) -> Choice:
    """Compare kept positions.

    found, expected: [B, k]
    scores: [B, N], the reference's
    """
    batch, k = expected.shape
    complaints = _malformed(found, expected, scores.shape[1])
    if complaints:
        return Choice(np.zeros(batch), 0, float("inf"), None, complaints)
    overlap, ties, widest, worst = np.ones(batch), 0, 0.0, None
    for row in range(batch):
        extra = np.setdiff1d(found[row], expected[row])
        missing = np.setdiff1d(expected[row], found[row])
        overlap[row] = 1 - len(extra) / k
        if not len(extra):
            continue
        gap = float(scores[row, missing].max() - scores[row, extra].min())
        allowed = SCORE_GAP * max(1.0, float(np.abs(scores[row]).max()))
        if gap > allowed:
            complaints += (f"keeps other tokens whose scores are {gap:.2g} apart (near ties end at {allowed:.2g})",)
        else:
            ties += len(extra)
        if worst is None or gap > widest:
            widest, worst = gap, (row, int(missing[scores[row, missing].argmax()]))
    return Choice(overlap, ties, widest, worst, complaints[:1])


def _malformed(found: NDArray[Any], expected: Indices, patches: int) -> tuple[str, ...]:
    if found.shape != expected.shape or found.dtype != np.int32:
        return (f"indices are {found.dtype} {list(found.shape)}, wanted int32 {list(expected.shape)}",)
    if found.min() < 0 or found.max() >= patches:
        return (f"indices lie outside 0..{patches - 1}",)
    if (np.diff(found, axis=1) <= 0).any():
        return ("indices do not rise: tokens are out of order or kept twice",)
    return ()


def deviation_from_logits(found: NDArray[Any], expected: Floats, tolerance: Tolerance) -> Deviation:
    """Compare logits, both [B, classes]."""
    if found.shape != expected.shape or found.dtype != np.float32:
        complaint = f"logits are {found.dtype} {list(found.shape)}, wanted float32 {list(expected.shape)}"
        return Deviation(np.inf, np.inf, np.inf, 0.0, 0.0, 0, (complaint,))
    difference = np.abs(found.astype(np.float64) - expected)
    scale = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
    relative = np.where(np.isfinite(difference).all(axis=1), difference.max(axis=1) / scale, np.inf)
    cosine = _cosine(found.astype(np.float64), expected.astype(np.float64))
    agrees = found.argmax(axis=1) == expected.argmax(axis=1)
    complaints: list[str] = []
    if relative.max() > tolerance.relative:
        complaints.append(f"relative error {relative.max():.2g} is above {tolerance.relative:g}")
    if not cosine.min() >= tolerance.cosine:
        complaints.append(f"cosine {cosine.min():.6f} is below {tolerance.cosine:g}")
    complaints += _flips(found, expected, agrees, 2 * tolerance.relative * scale)
    return Deviation(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative=float(relative.max()),
        cosine=float(cosine.min()),
        top1=float(agrees.mean()),
        worst=int(relative.argmax()),
        complaints=tuple(complaints),
    )


def _flips(found: Floats, expected: Floats, agrees: NDArray[np.bool_], margin: NDArray[Any]) -> Sequence[str]:
    """Another first class is an error unless the reference's first two were closer than rounding can tell."""
    rows = np.flatnonzero(~agrees)
    lost = expected[rows].max(axis=1) - expected[rows, found[rows].argmax(axis=1)]
    wrong = rows[lost > margin[rows]]
    return [f"another class comes first on {len(wrong)} of {len(agrees)} images"] if len(wrong) else []


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = (np.abs(a).max(axis=1) == 0) & (np.abs(b).max(axis=1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both_zero, 1.0, (a * b).sum(axis=1) / norms)
