"""Time of short GPU work in microseconds: CUDA graphs between CUDA events, with a warm or a flushed L2 cache.

Like FlashInfer's timer (flashinfer/testing/utils.py, fb28d72): dry runs first, cold L2 by default, all samples kept. A
graph's replay has no host time per call; the time of an empty launch is measured.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["Timer", "same"]

_DRY_RUNS: Final = 10
_CALLS_PER_GRAPH: Final = 20
_COPY_BYTES: Final = 2**28


class Timer:
    """Times calls that enqueue work on torch's current stream. samples: per method and cache state."""

    def __init__(self, samples: int = 100) -> None:
        self._samples = samples
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flush = torch.empty(max(2 * l2_bytes, 2**24), dtype=torch.uint8, device="cuda")
        nothing = torch.zeros(1, device="cuda")
        self.floor_us = float(torch.tensor(self.cold_us(lambda: nothing.zero_())).median())
        """Time of a graph with one minimal kernel, measured like ``cold_us``."""

    def warm_us(self, call: Callable[[], Any]) -> list[float]:
        """Microseconds per call, many calls back to back: inputs and outputs stay in the L2 cache if they fit."""
        graph = self._captured(call, _CALLS_PER_GRAPH)
        return [sample / _CALLS_PER_GRAPH for sample in self._replays(graph, flush=False)]

    def cold_us(self, call: Callable[[], Any]) -> list[float]:
        """Microseconds of single calls, the L2 cache overwritten before each; includes ``floor_us``."""
        return self._replays(self._captured(call, 1), flush=True)

    def copy_gb_s(self) -> float:
        """Bandwidth of a plain copy of device memory in GB/s, bytes read and written: the practical peak."""
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        samples = self._replays(self._captured(lambda: target.copy_(source), 1), flush=False)
        return 2 * _COPY_BYTES / float(torch.tensor(samples).median()) / 1e3

    def _captured(self, call: Callable[[], Any], times: int) -> torch.cuda.CUDAGraph:
        """A graph of ``times`` calls. TensorRT allocates in its first calls, so those run outside of the graph."""
        with torch.cuda.stream(self._stream):
            for _ in range(_DRY_RUNS):
                call()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            for _ in range(times):
                call()
        return graph

    def _replays(self, graph: torch.cuda.CUDAGraph, flush: bool) -> list[float]:
        events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        with torch.cuda.stream(self._stream):
            for _ in range(_DRY_RUNS):
                graph.replay()
            for _ in range(self._samples):
                pair = (_event(), _event())
                if flush:
                    self._flush.zero_()
                pair[0].record()
                graph.replay()
                pair[1].record()
                events.append(pair)
        self._stream.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in events]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    return found.shape == expected.shape and bool(torch.equal(found.view(torch.uint8), expected.view(torch.uint8)))
