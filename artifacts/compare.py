"""Compare an engine's outputs with torch's: the one comparator, and the one table of tolerances.

There are two questions. Which tokens were kept (``compare_indices``)? A difference is accepted only between tokens
whose scores are nearly equal. Are the logits right for the tokens that were kept (``compare_logits``)? Export runs
torch again on the tokens that the graph kept; where only golden tensors are at hand (``runtime``), images with other
tokens are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SCORE_GAP",
    "TOLERANCES",
    "IndexComparison",
    "LogitComparison",
    "Tolerance",
    "compare_indices",
    "compare_logits",
    "cosine_of_rows",
    "score_rounding",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]


@dataclass(frozen=True)
class Tolerance:
    """How far the outputs of a graph or engine may be from torch in fp32.

    relative: largest difference of a logit, divided by the largest logit of the same image
    cosine: least cosine between the logits of an image
    common: least fraction of kept tokens in common, averaged over the images; near ties count as common
    """

    relative: float
    cosine: float
    common: float


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    "fp32": Tolerance(relative=1e-4, cosine=0.999999, common=1.0),
    "fp16": Tolerance(relative=2e-2, cosine=0.9999, common=0.90),
    "bf16": Tolerance(relative=1.5e-1, cosine=0.99, common=0.70),
    "int8": Tolerance(relative=4e-1, cosine=0.95, common=0.70),
    "fp8": Tolerance(relative=1.2, cosine=0.70, common=0.70),
}
"""Precision of a graph or engine -> tolerance, the same on every device.

relative: fp32 rounds at 6e-8; a dozen blocks and another order of summation make 1e-6 to 1e-5 of it, on a CPU and with
ONNX Runtime's CUDA provider alike. This assumes that TF32 is off: it has 11 significant bits, as few as fp16. fp16 has
11 significant bits and bf16 8; measured on a trained ViT-S they give up to 8e-3 and 7e-2. int8 has 8 bits for the whole
range of a tensor, fp8 4 significant bits: on the worst of 8,000 comparisons of a trained model (2,000 images, four
budgets) they give 0.26 and 1.0, and cosines of 0.97 and 0.72; the means are 0.009 and 0.026. So these two find a wrong
graph, and whether top-1 suffers is found on labelled images (``export.quantize``).
common: export's graphs compute scores in fp32 in every precision, so export requires 1.0 of all of them. An engine may
fuse and round what comes before the scores; the lower precisions leave room for that.
"""

SCORE_GAP: Final = 2e-5
"""Scores nearer than this times max(1, largest score) are a near tie. Every precision computes a filter's in fp32."""


@dataclass(frozen=True)
class IndexComparison:
    """Kept tokens of a batch against the reference's.

    overlap: fraction of kept tokens in common, [B]
    near_ties: number of tokens that differ in a near tie
    gap: largest difference in score between a token that was left out and the one kept in its place
    worst: (row, patch position) of that token; None when nothing differs
    errors: empty when the comparison passed
    """

    overlap: NDArray[np.float64]
    near_ties: int
    gap: float
    worst: tuple[int, int] | None
    errors: tuple[str, ...]


@dataclass(frozen=True)
class LogitComparison:
    """Logits of a batch against the reference's.

    worst: the row with the largest relative difference
    errors: empty when the comparison passed
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    top1: float
    worst: int
    errors: tuple[str, ...]


def compare_indices(
    found: NDArray[Any], expected: Indices, scores: Floats, least_common: float = 1.0, rounding: float = 0.0
) -> IndexComparison:
    """Compare kept positions.

    found, expected: [B, k]
    scores: [B, N], the reference's
    least_common: ``Tolerance.common``; 1.0 accepts near ties only
    rounding: relative error of scores that were computed in lower precision, inside the blocks (``score_rounding``)
    """
    batch, k = expected.shape
    malformed = _malformed(found, expected, scores.shape[1])
    if malformed:
        return IndexComparison(np.zeros(batch), 0, float("inf"), None, malformed)
    overlap, common = np.ones(batch), np.ones(batch)
    errors: list[str] = []
    ties, widest, worst = 0, 0.0, None
    for row in range(batch):
        extra = np.setdiff1d(found[row], expected[row])
        missing = np.setdiff1d(expected[row], found[row])
        if not len(extra):
            continue
        overlap[row] = 1 - len(extra) / k
        gap = float(scores[row, missing].max() - scores[row, extra].min())
        largest = float(np.abs(scores[row]).max())
        allowed = max(SCORE_GAP * max(1.0, largest), rounding * largest)
        if gap > allowed:
            common[row] = overlap[row]
            errors.append(f"keeps other tokens whose scores are {gap:.2g} apart (near ties end at {allowed:.2g})")
        else:
            ties += len(extra)
        if worst is None or gap > widest:
            widest, worst = gap, (row, int(missing[scores[row, missing].argmax()]))
    passed = common.mean() >= least_common
    return IndexComparison(overlap, ties, widest, worst, () if passed else tuple(errors[:1]))


def score_rounding(precision: str, reducer: str) -> float:
    """Relative error of a reducer's scores in a graph or engine of a precision.

    The filter's scores are fp32 in every precision; others come from the attention of a block, in that precision.
    """
    return 0.0 if reducer == "filter" or precision == "fp32" else TOLERANCES[precision].relative


def _malformed(found: NDArray[Any], expected: Indices, num_patches: int) -> tuple[str, ...]:
    if found.shape != expected.shape or found.dtype != np.int32:
        return (f"indices are {found.dtype} {list(found.shape)}, expected int32 {list(expected.shape)}",)
    if found.min() < 0 or found.max() >= num_patches:
        return (f"indices lie outside 0..{num_patches - 1}",)
    if (np.diff(found, axis=1) <= 0).any():
        return ("indices do not rise: tokens are out of order or kept twice",)
    return ()


def compare_logits(
    found: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance, output: str = "logits"
) -> LogitComparison:
    """Compare logits or probabilities, both [B, classes], or embeddings [B, C]; ``found`` in fp32.

    output: ``embedding``: which of its numbers is the largest is not compared
    """
    if found.shape != expected.shape or found.dtype != np.float32:
        verb = "is" if output == "embedding" else "are"
        error = f"{output} {verb} {found.dtype} {list(found.shape)}, expected float32 {list(expected.shape)}"
        return LogitComparison(np.inf, np.inf, np.inf, 0.0, 0.0, 0, (error,))
    difference = np.abs(found.astype(np.float64) - expected)
    scale = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
    relative = np.where(np.isfinite(difference).all(axis=1), difference.max(axis=1) / scale, np.inf)
    cosine = cosine_of_rows(found.astype(np.float64), expected.astype(np.float64))
    agrees = found.argmax(axis=1) == expected.argmax(axis=1)
    errors: list[str] = []
    if relative.max() > tolerance.relative:
        errors.append(f"relative error {relative.max():.2g} is above {tolerance.relative:g}")
    if not cosine.min() >= tolerance.cosine:
        errors.append(f"cosine {cosine.min():.6f} is below {tolerance.cosine:g}")
    if output != "embedding":
        errors += _flips(found, expected, agrees, 2 * tolerance.relative * scale)
    return LogitComparison(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative=float(relative.max()),
        cosine=float(cosine.min()),
        top1=float(agrees.mean()),
        worst=int(relative.argmax()),
        errors=tuple(errors),
    )


def _flips(found: Floats, expected: NDArray[Any], agrees: NDArray[np.bool_], margin: NDArray[Any]) -> Sequence[str]:
    """Another top-1 class is an error unless the reference's first two logits are within rounding of each other."""
    rows = np.flatnonzero(~agrees)
    lost = expected[rows].max(axis=1) - expected[rows, found[rows].argmax(axis=1)]
    wrong = rows[lost > margin[rows]]
    return [f"another class comes first on {len(wrong)} of {len(agrees)} images"] if len(wrong) else []


def cosine_of_rows(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine between rows of a and b, [B, n]; 1 where both are zero."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = (np.abs(a).max(axis=1) == 0) & (np.abs(b).max(axis=1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both_zero, 1.0, (a * b).sum(axis=1) / norms)
