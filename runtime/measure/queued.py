"""MLPerf's Offline scenario on a session that runs several batches at the same time by itself, such as OpenVINO's."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Final

from tokfilter.artifacts.budget import Keep
from tokfilter.runtime.measure.metrics import latency_from_samples
from tokfilter.runtime.measure.scenario import ScenarioConfig, ScenarioResult
from tokfilter.runtime.session import Array, QueueSession

__all__ = ["queued_offline"]

_MIN_QUERIES: Final = 10  # as in the loop of one query after another


def queued_offline(
    session: QueueSession,
    queries: Sequence[Array],
    config: ScenarioConfig,
    keep: Keep | None = None,
    clock: Callable[[], float] = perf_counter,
) -> ScenarioResult:
    """Feed the session's queue for ``duration_s``; the metric is images per second until the last one is done.

    queries: batches of images, used in turn
    clock: seconds, monotonic
    """

    def batches(seconds: float) -> Iterator[Array]:
        count, end = 0, clock() + seconds
        while count < _MIN_QUERIES or clock() < end:
            yield queries[count % len(queries)]
            count += 1

    session.run_queue(batches(config.warm_up_s), keep)
    samples: list[float] = []
    begin = clock()
    count = session.run_queue(
        batches(config.duration_s), keep, lambda place, result, taken: samples.append(taken * 1e3)
    )
    seconds = clock() - begin
    images = sum(len(queries[place % len(queries)]) for place in range(count))
    return ScenarioResult(
        scenario="Offline",
        source="built-in loop",
        metric="samples per second",
        value=images / seconds,
        latency=latency_from_samples(samples),
        queries=count,
        images_per_query=config.batch,
        seconds=seconds,
        images_per_s=images / seconds,
        valid=None,
        notes=("one session, as many requests at the same time as streams: a latency counts from its request's start",),
    )
