"""Nearest neighbours among the outputs of one set of images, with numpy: recall@1 of a retrieval.

An image is the query, all other images of the set are the gallery; nearness is cosine similarity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.compare import cosine_of_rows
from tokfilter.errors import DataError

__all__ = ["Retrieval", "retrieval_of", "unit_rows"]

Floats = npt.NDArray[Any]

_ENTRIES: Final = 1 << 24
"""Largest number of similarities that are computed at once."""

_TIE: Final = 1e-5
"""Two neighbours whose similarity differs by less are equally near: copies of an image, and rounding."""


@dataclass(frozen=True)
class Retrieval:
    """Outputs of a set of images against the full model's.

    cosine: mean over the images of the cosine with the full model's output
    found, queries: recall@1 as a count: queries whose nearest neighbour is right. With classes: it has the query's
        class, and a query whose class has no other image is not counted. Without: it is the full model's neighbour
    same: fraction of images whose nearest neighbour is the full model's
    truth: "classes" or "neighbours", what ``found`` was counted by
    """

    cosine: float
    found: int
    queries: int
    same: float
    truth: str

    @property
    def recall(self) -> float:
        """recall@1."""
        return self.found / self.queries


def retrieval_of(outputs: Floats, full: Floats, labels: Sequence[int] | None = None) -> Retrieval:
    """Compare the outputs of the same images at a budget and of the full model.

    outputs, full: [n, C]; queries and gallery are both of ``outputs``, their truth without labels is of ``full``
    labels: class of each image; None for images without classes
    Raises DataError for fewer than two images, and where an output is zero or not finite.
    """
    if len(outputs) < 2:
        raise DataError(f"nearest neighbours need at least 2 images, got {len(outputs)}: give more images.")
    rows, truth = unit_rows(outputs), unit_rows(full)
    near = _nearest(rows)
    same = _similarity(truth, near) >= _similarity(truth, _nearest(truth)) - _TIE
    cosine = float(cosine_of_rows(rows, truth).mean())
    classes = np.zeros(0, np.int64) if labels is None else np.asarray(labels)
    counted = np.bincount(classes, minlength=1)[classes] > 1 if len(classes) else np.zeros(0, bool)
    if not counted.any():
        return Retrieval(cosine, int(same.sum()), len(rows), float(same.mean()), "neighbours")
    right = (classes[near] == classes)[counted]
    return Retrieval(cosine, int(right.sum()), int(counted.sum()), float(same.mean()), "classes")


def unit_rows(outputs: Floats) -> npt.NDArray[np.float64]:
    """Rows [n, C] of length 1. Raises DataError where a row is zero or not finite: it has no direction."""
    rows = outputs.reshape(len(outputs), -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(bad):
        what = "zero" if lengths[bad[0]] == 0 else "not finite"
        raise DataError(
            f"the model's output for image {bad[0]} is {what}, so its cosine similarity is not defined: check that the "
            "model has its trained weights, and its preprocessing."
        )
    unit: npt.NDArray[np.float64] = rows / lengths[:, None]
    return unit


def _nearest(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Index of the nearest other row of each, [n]; the first of equal ones."""
    near, step = np.empty(len(rows), np.int64), max(1, _ENTRIES // len(rows))
    for start in range(0, len(rows), step):
        similarity = rows[start : start + step] @ rows.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        near[start : start + step] = similarity.argmax(axis=1)
    return near


def _similarity(rows: npt.NDArray[np.float64], near: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    similarity: npt.NDArray[np.float64] = (rows * rows[near]).sum(axis=1)
    return similarity
