"""Least squares with coefficients that are not negative, for a few columns."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["nonnegative_least_squares"]

Floats = NDArray[np.float64]


def nonnegative_least_squares(matrix: NDArray[Any], target: NDArray[Any]) -> Floats:
    """The x >= 0 with the smallest ``|matrix x - target|``.

    The solution is the ordinary one on the columns with positive coefficients. Every set of columns is tried: with six
    columns these are 64 small systems. scipy.optimize.nnls gives the same residual (tested); edge devices lack it.

    matrix: [points, columns], six columns at most
    target: [points]
    """
    columns = matrix.shape[1]
    assert columns <= 6, columns
    scale = np.abs(matrix).max(axis=0)
    scaled = matrix / np.where(scale > 0, scale, 1.0)
    best, least = np.zeros(columns), float(np.square(target).sum())
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            part = scaled[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(np.square(part @ found - target).sum())
            if (found >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(columns), error
                best[list(chosen)] = found
    return best / np.where(scale > 0, scale, 1.0)
