"""Latency engine: one query after another, MLPerf's SingleStream and MultiStream scenarios, in a short built-in loop.

For a run by MLPerf's rules (600 s, early stopping) use ``runtime.loadgen``. Source: MLCommons inference_rules.adoc,
"Scenarios".
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import DataError
from tokfilter.runtime.measure.metrics import Latency, latency_from_samples, percentile, stability
from tokfilter.runtime.session import Array, Session

__all__ = ["MULTI_STREAM_SAMPLES", "ScenarioResult", "multi_stream", "single_stream", "timed_queries"]

MULTI_STREAM_SAMPLES: Final = 8
_MIN_QUERIES: Final = 10  # trtexec's default for --iterations


@dataclass(frozen=True)
class ScenarioResult:
    """What one scenario measured.

    source: built-in loop, or mlcommons-loadgen with its version
    metric, value: the figure that MLPerf reports for the scenario, named with its unit
    latency: of queries, milliseconds
    seconds: wall-clock time of the measurement
    images_per_s: images completed over that time
    valid: whether the scenario's own conditions were met; None where it has none
    notes: what a reader must know beside the numbers
    """

    scenario: str
    source: str
    metric: str
    value: float
    latency: Latency
    queries: int
    images_per_query: int
    seconds: float
    images_per_s: float
    valid: bool | None
    notes: tuple[str, ...] = ()


def single_stream(
    session: Session, images: Array, keep: Keep | None = None, duration_s: float = 3.0, warm_up_s: float = 0.2
) -> ScenarioResult:
    """One image per query; the metric is the 90th percentile of the latency.

    images: [N, 3, H, W], taken in turn
    """
    return _closed_loop("SingleStream", 90, 1, session, images, keep, duration_s, warm_up_s)


def multi_stream(
    session: Session, images: Array, keep: Keep | None = None, duration_s: float = 3.0, warm_up_s: float = 0.2
) -> ScenarioResult:
    """Eight images per query, as one batch; the metric is the 99th percentile of the latency.

    images: [N, 3, H, W], taken in turn
    """
    return _closed_loop("MultiStream", 99, MULTI_STREAM_SAMPLES, session, images, keep, duration_s, warm_up_s)


def timed_queries(query: Callable[[int], Any], duration_s: float, warm_up_s: float) -> tuple[list[float], float]:
    """Call ``query(i)`` one after another, at least ten times. Returns latencies in ms and the wall-clock seconds."""
    if duration_s <= 0 or warm_up_s < 0:
        raise DataError(f"a measurement wants positive seconds, got {duration_s} after a warm-up of {warm_up_s}.")
    samples: list[float] = []
    begin = perf_counter()
    query(0)
    while perf_counter() - begin < warm_up_s:
        query(0)
    gc.collect()
    gc.disable()  # a collection inside a query would be counted as its latency
    try:
        begin = now = perf_counter()
        while len(samples) < _MIN_QUERIES or now - begin < duration_s:
            before = now
            query(len(samples))
            now = perf_counter()
            samples.append((now - before) * 1e3)
    finally:
        gc.enable()
    return samples, now - begin


def _closed_loop(
    scenario: str,
    p: int,
    per_query: int,
    session: Session,
    images: Array,
    keep: Keep | None,
    duration_s: float,
    warm_up_s: float,
) -> ScenarioResult:
    queries = query_batches(images, per_query)
    samples, seconds = timed_queries(lambda i: session.run(queries[i % len(queries)], keep), duration_s, warm_up_s)
    latency = latency_from_samples(samples)
    return ScenarioResult(
        scenario=scenario,
        source="built-in loop",
        metric=f"{p}th percentile latency (ms)",
        value=percentile(sorted(samples), p),
        latency=latency,
        queries=len(samples),
        images_per_query=per_query,
        seconds=seconds,
        images_per_s=per_query * len(samples) / seconds,
        valid=None,
        notes=(f"{len(samples)} queries: a quick look, no MLPerf run", *stability(latency)),
    )


def query_batches(images: Array, size: int) -> list[Array]:
    """Images cut into queries of ``size``, repeated from the start to fill the last."""
    count = -(-len(images) // size)
    rows = np.arange(count * size) % len(images)
    return [np.ascontiguousarray(images[part]) for part in rows.reshape(count, size)]
