"""Compare what an engine gives with torch's: logits, an embedding or masks, by the tolerances of logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokfilter.artifacts.compare import LogitComparison, Tolerance, compare_logits, cosine_of_rows

__all__ = ["compare_masks", "compare_outputs"]


def compare_outputs(
    found: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance, output: str = "logits"
) -> LogitComparison:
    """Compare what two models return: logits [B, classes], embeddings [B, C], or masks [B, M, H', W'].

    found: in fp32
    output: name of the model's output, for messages; an ``embedding`` has no first class that could differ
    """
    if expected.ndim != 2:
        return compare_masks(found, expected, tolerance)
    return compare_logits(found, expected, tolerance, output)


def compare_masks(found: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance) -> LogitComparison:
    """Compare masks [B, M, H', W'] as logits; ``found`` in fp32.

    relative: largest difference of a logit, divided by the largest logit of the image
    cosine: over all logits of an image
    top1: fraction of pixels with the same first mask. Another first mask is an error unless torch's two are within
        rounding of each other
    """
    if found.shape != expected.shape or found.dtype != np.float32:
        error = f"masks are {found.dtype} {list(found.shape)}, expected float32 {list(expected.shape)}"
        return LogitComparison(np.inf, np.inf, np.inf, 0.0, 0.0, 0, (error,))
    images = len(found)
    wide, wanted = found.reshape(images, -1).astype(np.float64), expected.reshape(images, -1).astype(np.float64)
    difference = np.abs(wide - wanted)
    scale = np.maximum(np.abs(wanted).max(axis=1), np.finfo(np.float32).tiny)
    relative = np.where(np.isfinite(difference).all(axis=1), difference.max(axis=1) / scale, np.inf)
    cosine = cosine_of_rows(wide, wanted)
    first = found.argmax(axis=1)
    lost = expected.max(axis=1) - np.take_along_axis(expected, first[:, None], axis=1)[:, 0]
    errors: list[str] = []
    if relative.max() > tolerance.relative:
        errors.append(f"relative error {relative.max():.2g} is above {tolerance.relative:g}")
    if not cosine.min() >= tolerance.cosine:
        errors.append(f"cosine {cosine.min():.6f} is below {tolerance.cosine:g}")
    wrong = int((lost > 2 * tolerance.relative * scale[:, None, None]).sum())
    if wrong:
        errors.append(f"another mask comes first on {wrong} of {lost.size} pixels")
    return LogitComparison(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative=float(relative.max()),
        cosine=float(cosine.min()),
        top1=float((first == expected.argmax(axis=1)).mean()),
        worst=int(relative.argmax()),
        errors=tuple(errors),
    )
