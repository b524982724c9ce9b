"""One shape of the PyTorch session on a GPU: page-locked buffers, device events, optionally a CUDA graph."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor

from tokfilter.errors import EngineError
from tokfilter.runtime.session import Array, Compute, Result, Timing
from tokfilter.runtime.torch_network import Forward

__all__ = ["GpuCall"]

_DRY_RUNS: Final = 3

_Call = Callable[[], dict[str, Tensor]]


class GpuCall:
    """Runs one batch size and budget on the current device. Raises EngineError where a graph cannot be captured.

    shape: of the images, [B, 3, H, W]
    cuda_graph: capture the call once and replay it, so that launches take no host time
    """

    def __init__(self, forward: Forward, shape: tuple[int, ...], k: int, cuda_graph: bool) -> None:
        self._host_images = torch.empty(shape, pin_memory=True)
        self._images = torch.zeros(shape, device="cuda")
        self._events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
        self._call: _Call = lambda: forward(self._images, k)
        self._host_outputs = {
            name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in self._call().items()
        }
        if cuda_graph:
            try:
                self._capture()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise EngineError(
                    f"PyTorch cannot capture a batch of {shape[0]} at {k} tokens in a CUDA graph: "
                    f"{str(error).splitlines()[0][:300]} Run without --cuda-graph."
                ) from error

    def _capture(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        call: _Call = self._call
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.stream(side):
            for _ in range(_DRY_RUNS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            outputs = call()

        def replay() -> dict[str, Tensor]:
            graph.replay()
            return outputs

        self._call = replay

    def __call__(self, images: Array) -> Result:
        """images: [B, 3, H, W]. The timing is of the stages between device events."""
        self._host_images.copy_(torch.from_numpy(images))
        start_event, copied, computed, end_event = self._events
        start = perf_counter()
        start_event.record()
        self._images.copy_(self._host_images, non_blocking=True)
        copied.record()
        outputs = self._call()
        computed.record()
        for name, host in self._host_outputs.items():
            host.copy_(outputs[name], non_blocking=True)
        end_event.record()
        enqueue_ms = (perf_counter() - start) * 1e3
        end_event.synchronize()
        spans = (start_event.elapsed_time(copied), copied.elapsed_time(computed), computed.elapsed_time(end_event))
        copies = {name: tensor.numpy().copy() for name, tensor in self._host_outputs.items()}
        return Result.from_outputs(copies, "logits", Timing(*spans, enqueue_ms))

    def repeat(self, images: Array, seconds: float) -> list[Compute]:
        """Repeat the computation on images that stay on the device."""
        self(images)
        begin, end, *_ = self._events
        times: list[Compute] = []
        now = start = perf_counter()
        while not times or now - start < seconds:
            before = now
            begin.record()
            self._call()
            end.record()
            end.synchronize()
            now = perf_counter()
            times.append(Compute((now - before) * 1e3, begin.elapsed_time(end)))
            now = perf_counter()  # reading the events is no part of the next call
        return times
