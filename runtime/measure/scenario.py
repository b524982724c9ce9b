"""Settings and results of MLPerf's four inference scenarios.

Source: MLCommons inference_rules.adoc, "Scenarios".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from tokfilter.errors import DataError
from tokfilter.runtime.measure.metrics import Latency
from tokfilter.runtime.session import Array

__all__ = ["MULTI_STREAM_SAMPLES", "SCENARIOS", "ScenarioConfig", "ScenarioResult", "query_batches"]

SCENARIOS: Final[Mapping[str, str]] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""Name on the command line -> MLPerf's name."""

_MOST_QUERIES: Final = 10_000_000

MULTI_STREAM_SAMPLES: Final = 8
"""Images per query of MultiStream."""


@dataclass(frozen=True)
class ScenarioConfig:
    """How a scenario is run.

    duration_s: measured seconds; MLPerf's rules require 600
    warm_up_s: untimed seconds before that (built-in loop)
    loadgen: let MLCommons' load generator issue the queries
    streams: sessions that run at the same time, each in its own thread (Offline, built-in loop)
    batch: largest number of images run as one batch (Offline, Server)
    qps: mean arrival rate in queries per second (Server); also the rate that the load generator expects of Offline
    latency_bound_ms: bound of the 99th percentile (Server)
    seed: of the Poisson arrivals (Server, built-in loop)
    """

    duration_s: float = 3.0
    warm_up_s: float = 0.2
    loadgen: bool = False
    streams: int = 1
    batch: int = 8
    qps: float = 10.0
    latency_bound_ms: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.duration_s, self.warm_up_s, self.qps, self.latency_bound_ms))):
            raise DataError(f"a scenario requires finite numbers, got {self}.")
        if self.duration_s <= 0 or self.warm_up_s < 0:
            raise DataError(f"a scenario requires positive seconds, got {self.duration_s} after {self.warm_up_s}.")
        if min(self.streams, self.batch, self.qps, self.latency_bound_ms) <= 0:
            raise DataError(
                "a scenario requires positive numbers of streams, images per batch, queries per second and "
                f"milliseconds, got {self.streams}, {self.batch}, {self.qps}, {self.latency_bound_ms}."
            )
        if self.qps * self.duration_s > _MOST_QUERIES:
            raise DataError(
                f"a scenario has at most {_MOST_QUERIES:,} queries, got {self.qps:g} a second for {self.duration_s:g} "
                "seconds: give a lower rate or less time."
            )


@dataclass(frozen=True)
class ScenarioResult:
    """Result of one scenario.

    source: built-in loop, or mlcommons-loadgen with its version
    metric, value: the metric that MLPerf reports for the scenario, with its unit
    latency: per query, milliseconds
    seconds: wall-clock time of the measurement
    images_per_s: completed images over that time
    valid: whether the scenario's own conditions were met; None where it has none
    notes: remarks to be shown beside the numbers
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


def query_batches(images: Array, size: int) -> list[Array]:
    """Images cut into queries of ``size``; the last one is filled from the start."""
    count = -(-len(images) // size)
    rows = np.arange(count * size) % len(images)
    return [np.ascontiguousarray(images[part]) for part in rows.reshape(count, size)]
