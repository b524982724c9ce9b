"""A cost model: the latency of a batch as launches, bytes and arithmetic, fitted to measured points.

    launches    a      + b for a filtered model   per call: starting kernels, reading the weights
    bytes       c B    + d B (k + 1)              images in, and activations, which grow with the kept tokens
    arithmetic  e B MACs(k)

``sum`` adds the three, as on a CPU. On a GPU the host starts kernels while earlier ones run, so that a call takes the
larger of launches and the rest: ``overlap``. Both are fitted with coefficients that are not negative, in relative
error; the one with the smaller cross-validated error is taken. Bytes and arithmetic grow almost alike with the budget,
so how time is divided between them is uncertain; their sum is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tokfilter.runtime.measure.least_squares import nonnegative_least_squares

__all__ = ["LARGEST_BATCH", "CostModel", "CostPoint", "PaysFrom", "fit_cost_model", "pays_from"]

Floats = NDArray[np.float64]
Form = Literal["sum", "overlap"]

LARGEST_BATCH: Final = 1024
"""Batches beyond this are not looked at."""

_CALL: Final = 2
"""Columns of the launches; the others belong to the images."""

_RESAMPLES: Final = 200
_CONFIDENCE: Final = 0.95
_STEPS: Final = 20


@dataclass(frozen=True)
class CostPoint:
    """A measured latency of a batch.

    tokens: kept patch tokens; every one for the full model, which is not ``filtered``
    macs: multiply-accumulates per image
    """

    batch: int
    tokens: int
    filtered: bool
    macs: int
    latency_ms: float = 0.0


@dataclass(frozen=True)
class CostModel:
    """A fitted model.

    coefficients: milliseconds per call, per call with a filter, per image, per image and token, per image and giga-MAC
    error: root mean square of the relative errors of points that were left out of the fit, one at a time
    worst: largest of these errors
    predicted_ms: of the points, in their order, when all are fitted
    batches: number of batch sizes among the points
    """

    form: Form
    coefficients: tuple[float, ...]
    error: float
    worst: float
    predicted_ms: tuple[float, ...]
    batches: int

    def latency_ms(self, point: CostPoint) -> float:
        """Predicted latency; that of the point is not used."""
        return float(_latencies(self.form, np.array(self.coefficients), _columns([point]))[0])


@dataclass(frozen=True)
class PaysFrom:
    """The smallest batch from which on a budget is faster than the full model, with its interval; None for no batch."""

    tokens: int
    batch: int | None
    low: int | None
    high: int | None


def fit_cost_model(points: Sequence[CostPoint]) -> CostModel | None:
    """The model of measured points; None for too few: two more places than coefficients are required.

    Raises ValueError for a latency that is not positive and finite.
    """
    measured = np.array([point.latency_ms for point in points], np.float64)
    if not (np.isfinite(measured).all() and (measured > 0).all()):
        raise ValueError("a cost model requires positive, finite latencies")
    columns = _columns(points)
    batches = len({point.batch for point in points})
    places = len({(point.batch, point.tokens) for point in points})
    free = int((columns != 0).any(axis=0).sum()) - (batches == 1)
    if places < free + 2:
        return None
    if batches == 1:
        columns[:, _CALL] = 0  # the time per image cannot be told from the time per call
    forms: tuple[Form, ...] = ("sum", "overlap") if batches > 1 else ("sum",)
    models = [_fitted(form, columns, measured, batches) for form in forms]
    return min(models, key=lambda model: model.error)


def pays_from(
    model: CostModel, points: Sequence[CostPoint], full: CostPoint, filtered: CostPoint, seed: int = 0
) -> PaysFrom:
    """From which batch on a budget is faster than the full model, with a bootstrap interval over the residuals.

    points: those of the fit
    full, filtered: the two models, at any batch
    """
    columns, predicted = _columns(points), np.array(model.predicted_ms)
    measured = np.array([point.latency_ms for point in points])
    used = sum(c > 0 for c in model.coefficients)
    residuals = np.log(measured / predicted) * np.sqrt(len(points) / max(1, len(points) - used))
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES):
        drawn = predicted * np.exp(random.choice(residuals, len(points)))
        coefficients = _refined(model.form, columns, drawn, _launch_bound(model.form, model.coefficients, columns))
        found.append(_first_batch(model.form, coefficients, full, filtered))
    ends = np.quantile(found, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], method="nearest")
    batch = _first_batch(model.form, np.array(model.coefficients), full, filtered)
    low, high = (min(float(ends[0]), batch), max(float(ends[1]), batch))
    return PaysFrom(filtered.tokens, *(None if np.isinf(value) else int(value) for value in (batch, low, high)))


def _columns(points: Sequence[CostPoint]) -> Floats:
    rows = [(1.0, float(p.filtered), p.batch, p.batch * (p.tokens + 1), p.batch * p.macs / 1e9) for p in points]
    return np.array(rows, np.float64)


def _latencies(form: Form, coefficients: Floats, columns: Floats) -> Floats:
    launches, rest = columns[:, :_CALL] @ coefficients[:_CALL], columns[:, _CALL:] @ coefficients[_CALL:]
    found: Floats = launches + rest if form == "sum" else np.maximum(launches, rest)
    return found


def _fitted(form: Form, columns: Floats, measured: Floats, batches: int) -> CostModel:
    every = np.arange(len(measured))
    coefficients = _fit(form, columns, measured)
    errors = []
    for left_out in every:
        others = every != left_out
        found = _fit(form, columns[others], measured[others])
        errors.append(_latencies(form, found, columns[left_out : left_out + 1])[0] / measured[left_out] - 1)
    predicted = _latencies(form, coefficients, columns)
    return CostModel(
        form,
        tuple(map(float, coefficients)),
        error=float(np.sqrt(np.mean(np.square(errors)))),
        worst=float(np.abs(errors).max()),
        predicted_ms=tuple(map(float, predicted)),
        batches=batches,
    )


def _fit(form: Form, columns: Floats, measured: Floats) -> Floats:
    """For ``overlap`` the points up to a batch are taken as bound by launches at first; every such batch is tried."""
    if form == "sum":
        return _refined(form, columns, measured, np.zeros(len(measured), bool))
    images = columns[:, _CALL]
    starts = [_refined(form, columns, measured, images <= batch) for batch in np.unique(images)[:-1]]
    starts = starts or [_refined(form, columns, measured, np.zeros(len(measured), bool))]
    return min(starts, key=lambda found: float(np.square(_latencies(form, found, columns) / measured - 1).sum()))


def _refined(form: Form, columns: Floats, measured: Floats, launch_bound: NDArray[np.bool_]) -> Floats:
    """Coefficients with the smallest relative errors; for ``overlap`` each side is fitted to its points, in turn."""
    relative, ones = columns / measured[:, None], np.ones(len(measured))
    if form == "sum":
        return nonnegative_least_squares(relative, ones)
    coefficients = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        for part, bound in ((slice(0, _CALL), launch_bound), (slice(_CALL, None), ~launch_bound)):
            if bound.any():
                coefficients[part] = nonnegative_least_squares(relative[bound, part], ones[bound])
            else:
                coefficients[part] = 0
        now = _launch_bound(form, coefficients, columns)
        if (now == launch_bound).all():
            break
        launch_bound = now
    return coefficients


def _launch_bound(form: Form, coefficients: Sequence[float] | Floats, columns: Floats) -> NDArray[np.bool_]:
    values = np.asarray(coefficients)
    bound: NDArray[np.bool_] = columns[:, :_CALL] @ values[:_CALL] >= columns[:, _CALL:] @ values[_CALL:]
    return bound


def _first_batch(form: Form, coefficients: Floats, full: CostPoint, filtered: CostPoint) -> float:
    """The smallest batch from which on the filtered model is faster, infinity for none."""
    batches = np.arange(1, LARGEST_BATCH + 1)
    times = []
    for point in (full, filtered):
        columns = np.repeat(_columns([point]), len(batches), axis=0)
        columns[:, _CALL:] *= (batches / point.batch)[:, None]
        times.append(_latencies(form, coefficients, columns))
    slower = np.flatnonzero(times[1] >= times[0] * (1 - 1e-9))
    first = 0 if not len(slower) else int(slower[-1]) + 1
    return float("inf") if first == len(batches) else float(batches[first])
