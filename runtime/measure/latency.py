"""Built-in loops of MLPerf's SingleStream and MultiStream scenarios: one query after another.

For a run by MLPerf's rules (600 s, early stopping) use ``measure.loadgen``.
"""

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from tokfilter.artifacts.budget import Keep
from tokfilter.runtime.measure.metrics import latency_from_samples, percentile, stability
from tokfilter.runtime.measure.scenario import MULTI_STREAM_SAMPLES, ScenarioConfig, ScenarioResult, query_batches
from tokfilter.runtime.session import Array, Session

__all__ = ["multi_stream", "single_stream", "timed_queries"]

_MIN_QUERIES: Final = 10  # trtexec's default for --iterations


def single_stream(session: Session, images: Array, config: ScenarioConfig, keep: Keep | None = None) -> ScenarioResult:
    """One image per query; the metric is the 90th percentile of the latency.

    images: [N, 3, H, W], used in turn
    """
    return _closed_loop("SingleStream", 90, 1, session, images, config, keep)


def multi_stream(session: Session, images: Array, config: ScenarioConfig, keep: Keep | None = None) -> ScenarioResult:
    """Eight images per query, as one batch; the metric is the 99th percentile of the latency.

    images: [N, 3, H, W], used in turn
    """
    return _closed_loop("MultiStream", 99, MULTI_STREAM_SAMPLES, session, images, config, keep)


def timed_queries(
    query: Callable[[int], Any], duration_s: float, warm_up_s: float, clock: Callable[[], float] = perf_counter
) -> tuple[list[float], float]:
    """Call ``query(i)`` in sequence, at least ten times.

    clock: seconds, monotonic
    Returns latencies in milliseconds and the wall-clock seconds.
    """
    samples: list[float] = []
    begin = clock()
    query(0)
    while clock() - begin < warm_up_s:
        query(0)
    gc.collect()
    gc.disable()  # a collection inside a query would be counted as its latency
    try:
        begin = now = clock()
        while len(samples) < _MIN_QUERIES or now - begin < duration_s:
            before = now
            query(len(samples))
            now = clock()
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
    config: ScenarioConfig,
    keep: Keep | None,
) -> ScenarioResult:
    queries = query_batches(images, per_query)
    samples, seconds = timed_queries(
        lambda i: session.run(queries[i % len(queries)], keep), config.duration_s, config.warm_up_s
    )
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
        notes=(f"{len(samples)} queries; not a run by MLPerf's rules", *stability(latency)),
    )
