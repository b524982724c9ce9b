"""What Prometheus is told, in a registry of its own."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from .batcher import Batcher

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tokfilter_requests", "Images that were answered, by status.", ["status"], registry=registry
        )
        self.refused = Counter(
            "tokfilter_refused", "Images that were refused because the queue was full.", registry=registry
        )
        self.seconds = Histogram(
            "tokfilter_request_seconds", "From the first byte to the answer, of images that were classified.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram("tokfilter_batch_images", "Images run together.", buckets=_BATCHES, registry=registry)
        self._depth = Gauge("tokfilter_queue_depth", "Images that wait for the engine.", registry=registry)
        self._admitted = Gauge("tokfilter_admitted", "Requests read, decoded, waiting or running.", registry=registry)
        self._limit = Gauge(
            "tokfilter_admitted_limit", "Above so many admitted a request is refused.", registry=registry
        )

    def watch(self, batcher: Batcher[Any, Any]) -> None:
        """Read the gauges from a batcher whenever they are asked for."""
        self._depth.set_function(lambda: batcher.depth)
        self._admitted.set_function(lambda: batcher.admitted)
        self._limit.set(batcher.limit)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
