"""Built-in loops of MLPerf's Offline and Server scenarios.

Server: queries of one image arrive as a Poisson process, independent of the engine's speed; waiting queries are run
as one batch, up to a largest size. Latency is counted from the arrival time, so time in the queue is included.
"""

import threading
from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import DataError
from tokfilter.runtime.measure.latency import timed_queries
from tokfilter.runtime.measure.metrics import latency_from_samples, percentile
from tokfilter.runtime.measure.queued import queued_offline
from tokfilter.runtime.measure.scenario import ScenarioConfig, ScenarioResult, query_batches
from tokfilter.runtime.session import Array, QueueSession, Session

__all__ = ["offline", "server"]

_SPIN_S: Final = 0.0005
"""A sleep ends late by about this much; the rest of a wait is a busy loop."""


def offline(
    sessions: Sequence[Session], images: Array, config: ScenarioConfig, keep: Keep | None = None
) -> ScenarioResult:
    """All images are available from the start; the metric is images per second.

    sessions: one per stream; each runs in a thread of its own, all at the same time
    images: [N, 3, H, W], used in turn in batches
    """
    if not sessions:
        raise DataError("Offline requires at least one session, got none.")
    queries = query_batches(images, config.batch)
    if len(sessions) == 1 and isinstance(sessions[0], QueueSession):
        return queued_offline(sessions[0], queries, config, keep)
    found: list[tuple[list[float], float]] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(sessions))

    def stream(session: Session) -> None:
        try:
            session.run(queries[0], keep)
            barrier.wait()
            found.append(
                timed_queries(
                    lambda i: session.run(queries[i % len(queries)], keep), config.duration_s, config.warm_up_s
                )
            )
        except BaseException as error:  # raised again in the caller's thread
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
    rate = sum(config.batch * len(part) / seconds for part, seconds in found)
    notes = [] if len(sessions) == 1 else ["several streams: latency is not accurate (see trtexec's --streams)"]
    return ScenarioResult(
        scenario="Offline",
        source="built-in loop",
        metric="samples per second",
        value=rate,
        latency=latency_from_samples(samples),
        queries=len(samples),
        images_per_query=config.batch,
        seconds=max(seconds for _, seconds in found),
        images_per_s=rate,
        valid=None,
        notes=(f"streams: {len(sessions)}", *notes),
    )


def server(
    session: Session,
    images: Array,
    config: ScenarioConfig,
    keep: Keep | None = None,
    clock: Callable[[], float] = perf_counter,
    wait: Callable[[float], None] = sleep,
) -> ScenarioResult:
    """Poisson arrivals at ``qps``; valid when the 99th percentile of the latency is within the bound.

    images: [N, 3, H, W], one per query, used in turn
    clock, wait: seconds, monotonic; sleep for some seconds
    """
    arrivals = _arrivals(config)
    for size in range(config.batch, 0, -1):  # the first run of a shape takes longer; sessions keep the last few shapes
        session.run(images[np.arange(size) % len(images)], keep)
    latencies, sizes, seconds = _serve(session, images, keep, arrivals, config.batch, clock, wait)
    p99 = percentile(np.sort(latencies), 99)
    bound = config.latency_bound_ms
    return ScenarioResult(
        scenario="Server",
        source="built-in loop",
        metric="scheduled samples per second",
        value=config.qps,
        latency=latency_from_samples(latencies),
        queries=len(arrivals),
        images_per_query=1,
        seconds=seconds,
        images_per_s=len(arrivals) / seconds,
        valid=p99 <= bound,
        notes=(f"bound: p99 <= {bound:g} ms", f"mean batch {np.mean(sizes):.1f} of at most {config.batch}"),
    )


def _arrivals(config: ScenarioConfig) -> Array:
    """Arrival times in seconds from the start, at least one."""
    generator = np.random.default_rng(config.seed)
    gaps = generator.exponential(1 / config.qps, max(1, round(config.qps * config.duration_s)))
    arrivals: Array = np.cumsum(gaps) - gaps[0]
    return arrivals


def _serve(
    session: Session,
    images: Array,
    keep: Keep | None,
    arrivals: Array,
    max_batch: int,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> tuple[Array, list[int], float]:
    latencies, sizes, done = np.empty(len(arrivals)), [], 0
    begin = clock()
    while done < len(arrivals):
        while (left := begin + arrivals[done] - clock()) > 0:
            if left > _SPIN_S:
                wait(left - _SPIN_S)
        waiting = int(np.searchsorted(arrivals, clock() - begin, side="right"))
        size = min(max(waiting - done, 1), max_batch)
        session.run(images[np.arange(done, done + size) % len(images)], keep)
        now = clock() - begin
        latencies[done : done + size] = (now - arrivals[done : done + size]) * 1e3
        sizes.append(size)
        done += size
    return latencies, sizes, clock() - begin
