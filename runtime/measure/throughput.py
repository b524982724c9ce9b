"""Throughput engine: MLPerf's Offline and Server scenarios, in a short built-in loop.

Server: queries of one image arrive as a Poisson process, whatever the engine does; what waits is run together, up to
a largest batch. A query's latency runs from the moment when it was due, so that a slow engine cannot hide its queue.
"""

import threading
from collections.abc import Sequence
from time import perf_counter, sleep
from typing import Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import DataError
from tokfilter.runtime.measure.latency import ScenarioResult, query_batches, timed_queries
from tokfilter.runtime.measure.metrics import latency_from_samples, percentile
from tokfilter.runtime.session import Array, Session

__all__ = ["offline", "server"]

_SPIN_S: Final = 0.0005
"""A sleep wakes up late by about this much; the rest of a wait is spent looking at the clock."""


def offline(
    sessions: Sequence[Session],
    images: Array,
    keep: Keep | None = None,
    batch: int = 32,
    duration_s: float = 3.0,
    warm_up_s: float = 0.2,
) -> ScenarioResult:
    """All images are there from the start; the metric is images per second.

    sessions: one per stream; each runs in a thread of its own, all at once
    images: [N, 3, H, W], taken in turn in batches
    """
    if not sessions or batch < 1:
        raise DataError(f"Offline wants at least one session and a batch of 1 or more, got {len(sessions)}, {batch}.")
    queries = query_batches(images, batch)
    found: list[tuple[list[float], float]] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(sessions))

    def stream(session: Session) -> None:
        try:
            session.run(queries[0], keep)
            barrier.wait()
            found.append(timed_queries(lambda i: session.run(queries[i % len(queries)], keep), duration_s, warm_up_s))
        except BaseException as error:  # carried to the caller's thread
            barrier.abort()
            failures.append(error)

    threads = [threading.Thread(target=stream, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failures:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    samples = [ms for part, _ in found for ms in part]
    rate = sum(batch * len(part) / seconds for part, seconds in found)
    notes = [] if len(sessions) == 1 else ["several streams: latency is not accurate, as trtexec says too"]
    return ScenarioResult(
        scenario="Offline",
        source="built-in loop",
        metric="samples per second",
        value=rate,
        latency=latency_from_samples(samples),
        queries=len(samples),
        images_per_query=batch,
        seconds=max(seconds for _, seconds in found),
        images_per_s=rate,
        valid=None,
        notes=(f"streams: {len(sessions)}", *notes),
    )


def server(
    session: Session,
    images: Array,
    keep: Keep | None = None,
    qps: float = 10.0,
    latency_bound_ms: float = 100.0,
    max_batch: int = 8,
    duration_s: float = 3.0,
    seed: int = 0,
) -> ScenarioResult:
    """Poisson arrivals at ``qps``; valid when the 99th percentile of the latency keeps the bound.

    images: [N, 3, H, W], one per query, taken in turn
    max_batch: largest number of waiting queries that are run together
    """
    if qps <= 0 or latency_bound_ms <= 0 or max_batch < 1 or duration_s <= 0:
        raise DataError(
            "Server wants positive queries per second, latency bound, largest batch and seconds, got "
            f"{qps}, {latency_bound_ms}, {max_batch}, {duration_s}."
        )
    due = _arrivals(qps, duration_s, seed)
    for size in range(1, max_batch + 1):  # a new shape costs extra at its first run
        session.run(images[np.arange(size) % len(images)], keep)
    latencies, sizes, seconds = _serve(session, images, keep, due, max_batch)
    p99 = percentile(np.sort(latencies), 99)
    return ScenarioResult(
        scenario="Server",
        source="built-in loop",
        metric="scheduled samples per second",
        value=qps,
        latency=latency_from_samples(latencies),
        queries=len(due),
        images_per_query=1,
        seconds=seconds,
        images_per_s=len(due) / seconds,
        valid=p99 <= latency_bound_ms,
        notes=(f"bound: p99 <= {latency_bound_ms:g} ms", f"mean batch {np.mean(sizes):.1f} of at most {max_batch}"),
    )


def _arrivals(qps: float, duration_s: float, seed: int) -> Array:
    """Seconds at which queries are due, at least one."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / qps, max(1, round(qps * duration_s)))
    due: Array = np.cumsum(gaps) - gaps[0]
    return due


def _serve(
    session: Session, images: Array, keep: Keep | None, due: Array, max_batch: int
) -> tuple[Array, list[int], float]:
    latencies, sizes, done = np.empty(len(due)), [], 0
    begin = perf_counter()
    while done < len(due):
        _wait_until(begin + due[done])
        waiting = int(np.searchsorted(due, perf_counter() - begin, side="right"))
        size = min(max(waiting - done, 1), max_batch)
        session.run(images[np.arange(done, done + size) % len(images)], keep)
        now = perf_counter() - begin
        latencies[done : done + size] = (now - due[done : done + size]) * 1e3
        sizes.append(size)
        done += size
    return latencies, sizes, perf_counter() - begin


def _wait_until(moment: float) -> None:
    while (left := moment - perf_counter()) > 0:
        if left > _SPIN_S:
            sleep(left - _SPIN_S)
