"""Metrics for Prometheus, in a registry of their own."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from tokfilter.runtime.service.batcher import Batcher
from tokfilter.runtime.service.connections import Connections

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tokfilter_requests", "Answered requests, by HTTP status.", ["status"], registry=registry
        )
        self.refused = Counter("tokfilter_refused", "Requests refused because the service is full.", registry=registry)
        self.seconds = Histogram(
            "tokfilter_request_seconds", "Time from the first byte to the answer of a classified image.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram("tokfilter_batch_images", "Batch size.", buckets=_BATCHES, registry=registry)
        self._depth = Gauge("tokfilter_queue_depth", "Images waiting for the engine.", registry=registry)
        self._admitted = Gauge("tokfilter_admitted", "Requests in flight.", registry=registry)
        self._connections = Gauge("tokfilter_connections", "Open connections.", registry=registry)
        self.closed_connections = Counter(
            "tokfilter_closed_connections", "Connections refused or closed at a limit.", ["reason"], registry=registry
        )
        self._limit = Gauge("tokfilter_admitted_limit", "Limit of requests in flight.", registry=registry)

    def watch(self, batcher: Batcher[Any, Any]) -> None:
        """Read the gauges from a batcher at each scrape."""
        self._depth.set_function(lambda: batcher.depth)
        self._admitted.set_function(lambda: batcher.admitted)
        self._limit.set(batcher.limit)

    def watch_connections(self, connections: Connections) -> None:
        """Read the number of open connections at each scrape."""
        self._connections.set_function(lambda: len(connections))

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def answered(self) -> dict[str, int]:
        """Answered requests by HTTP status."""
        (family,) = self.requests.collect()
        return {s.labels["status"]: int(s.value) for s in family.samples if s.name.endswith("_total")}
