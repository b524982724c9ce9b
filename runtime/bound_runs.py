"""Runs of an ONNX Runtime session whose inputs and outputs stay on the device, and its CUDA graphs.

Each pair of batch and budget has its own device memory, bound once, and its own CUDA graph under a number of its own
(``gpu_graph_id``): a captured graph reads and writes the addresses that it was captured with. Images and results cross
through page-locked memory, on the stream that ONNX Runtime computes on.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any, Final, Protocol

import numpy as np

from tokfilter.errors import EngineError
from tokfilter.runtime.cuda import Cuda
from tokfilter.runtime.session import Array, Compute, Result, TensorSpec, Timing

__all__ = ["SHAPES", "BoundRuns", "DeviceMemory"]

SHAPES: Final = 8
"""Shapes whose memory and graphs are kept, least recently used dropped first."""

_UNWRITTEN: Final = np.float32(np.nan)


class DeviceMemory(Cuda, Protocol):
    """``Cuda`` with what a session of ONNX Runtime needs beyond it."""

    def free(self, address: int) -> None:
        """Release memory of ``allocate`` or ``pinned``."""
        ...

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes from one address of the device to another, in the order of the stream."""
        ...

    def end_capture(self, stream: int) -> None:
        """End a capture that failed half-way."""
        ...


@dataclass
class _Shape:
    """One batch and budget: addresses on the device and what ONNX Runtime is called with."""

    addresses: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    binding: Any
    options: Any
    graph: int | None


@dataclass
class BoundRuns:
    """Runs ``session`` on one device and stream.

    inputs, outputs: of the graph
    device: kind and number, as ONNX Runtime's IOBinding takes them
    stream: that the session computes on
    graphs: capture a CUDA graph per shape
    lengths: columns of further outputs at a budget, by name
    """

    onnxruntime: Any
    session: Any
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    cuda: DeviceMemory
    device: tuple[str, int]
    stream: int
    graphs: bool = False
    lengths: Callable[[int], Mapping[str, int]] = lambda _: {}
    _kept: "OrderedDict[tuple[int, int], _Shape]" = field(default_factory=OrderedDict, init=False)
    _staging: dict[str, Array] = field(default_factory=dict, init=False)
    _events: list[Any] = field(default_factory=list, init=False)
    _captured: int = field(default=0, init=False)

    def run(self, images: Array, k: int) -> Result:
        """Classify images [B, 3, H, W] on the host at k tokens."""
        shape = self._shape(len(images), k)
        source = self._host("images", images.shape, images.dtype)
        np.copyto(source, images)

        def send() -> None:
            self.cuda.to_device(shape.addresses["images"], source, self.stream)

        return self._timed(shape, shape.binding, send)

    def run_on_device(self, value: Any, k: int) -> Result:
        """Classify images that ``value``, an OrtValue on the device, holds.

        Without a CUDA graph they are read where they are; a graph reads its own memory, so they are copied there.
        """
        shape = self._shape(value.shape()[0], k)
        if shape.graph is None:
            binding = self._binding(shape.addresses | {"images": value.data_ptr()}, shape.shapes)
            return self._timed(shape, binding, lambda: None)
        size = value.tensor_size_in_bytes()
        target = shape.addresses["images"]
        return self._timed(
            shape, shape.binding, lambda: self.cuda.on_device(target, value.data_ptr(), size, self.stream)
        )

    def repeat(self, images: Array, k: int, seconds: float) -> list[Compute]:
        """Repeat the computation for ``seconds``, at least once, on images that stay on the device."""
        self.run(images, k)
        cuda, stream, (begin, end, *_), shape = self.cuda, self.stream, self._events, self._shape(len(images), k)
        times: list[Compute] = []
        now = start = perf_counter()
        while not times or now - start < seconds:
            before = now
            cuda.record(begin, stream)
            self._call(shape.binding, shape.options)
            cuda.record(end, stream)
            cuda.synchronize(stream)
            now = perf_counter()
            times.append(Compute((now - before) * 1e3, cuda.milliseconds(begin, end)))
            now = perf_counter()  # reading the events is no part of the next call
        return times

    def close(self) -> None:
        """Drop all shapes."""
        for key in tuple(self._kept):
            self._drop(key)

    def _timed(self, shape: _Shape, binding: Any, send: Any) -> Result:
        cuda, stream = self.cuda, self.stream
        if not self._events:
            self._events = [cuda.event() for _ in range(4)]
        cuda.record(self._events[0], stream)
        send()
        cuda.record(self._events[1], stream)
        start = perf_counter()
        self._call(binding, shape.options)
        enqueue = (perf_counter() - start) * 1e3
        cuda.record(self._events[2], stream)
        results = {}
        for spec in self.outputs:
            host = self._host(spec.name, shape.shapes[spec.name], spec.dtype)
            cuda.to_host(host, shape.addresses[spec.name], stream)
            results[spec.name] = host
        cuda.record(self._events[3], stream)
        cuda.synchronize(stream)
        h2d, compute, d2h = (cuda.milliseconds(a, b) for a, b in pairwise(self._events))
        copies = {name: host.copy() for name, host in results.items()}
        return Result.from_outputs(copies, self.outputs[0].name, Timing(h2d, compute, d2h, enqueue))

    def _shape(self, batch: int, k: int) -> _Shape:
        """Memory, binding and graph for a batch at k tokens, made at their first use."""
        key = (batch, k)
        if key not in self._kept:
            if len(self._kept) >= SHAPES:
                self._drop(next(iter(self._kept)))
            self._kept[key] = self._new_shape(batch, k)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _new_shape(self, batch: int, k: int) -> _Shape:
        specs = (*self.inputs, *self.outputs)
        lengths = self.lengths(k)
        shapes = {
            spec.name: (batch, lengths[spec.name]) if spec.name in lengths else _sizes(spec, batch, k) for spec in specs
        }
        addresses: dict[str, int] = {}
        try:
            for spec in specs:
                addresses[spec.name] = self.cuda.allocate(int(np.prod(shapes[spec.name])) * spec.dtype.itemsize)
            binding = self._binding(addresses, shapes)
            if not self.graphs:
                return _Shape(addresses, shapes, binding, self._options(None), None)
            self._captured += 1
            shape = _Shape(addresses, shapes, binding, self._options(self._captured), self._captured)
            self._capture(shape)
        except BaseException:
            for address in addresses.values():
                with suppress(EngineError):
                    self.cuda.free(address)
            raise
        return shape

    def _capture(self, shape: _Shape) -> None:
        """Run once, which captures, and prove that the next run replays. Raises EngineError."""
        try:
            self._call(shape.binding, shape.options)
        except EngineError as error:
            self.cuda.end_capture(self.stream)
            raise EngineError(f"{error} This was during CUDA graph capture: run with cuda_graph=False.") from error
        self.cuda.synchronize(self.stream)
        if not self._replays(shape):
            self._release_graph(shape)
            raise EngineError(
                "ONNX Runtime captured no CUDA graph and says nothing of it: run with cuda_graph=False. `tokfilter "
                "export --cuda` writes graphs that can be captured."
            )

    def _replays(self, shape: _Shape) -> bool:
        """Whether a run under the graph's number writes to the captured address, not to one that is bound later.

        ONNX Runtime has no call that tells, and where it does not capture it just runs the graph each time.
        """
        name = self.outputs[0].name
        size = shape.shapes[name]
        mark = self._host(name, size, np.dtype(np.float32))
        mark.fill(_UNWRITTEN)
        other = self.cuda.allocate(mark.nbytes)
        try:
            self.cuda.to_device(other, mark, self.stream)
            self._call(self._binding(shape.addresses | {name: other}, shape.shapes), shape.options)
            self.cuda.to_host(mark, other, self.stream)
            self.cuda.synchronize(self.stream)
            return bool(np.isnan(mark).all())
        finally:
            self.cuda.free(other)

    def _binding(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> Any:
        binding, (kind, number) = self.session.io_binding(), self.device
        for bind, specs in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
            for spec in specs:
                bind(spec.name, kind, number, spec.dtype.type, shapes[spec.name], addresses[spec.name])
        return binding

    def _options(self, graph: int | None) -> Any:
        options = self.onnxruntime.RunOptions()
        # Copies and events follow on the same stream, and one wait at the end is enough.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _call(self, binding: Any, options: Any) -> None:
        try:
            self.session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime raises many types
            text = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            full = any(word in str(error).lower() for word in ("out of memory", "failed to allocate"))
            remedy = " Free device memory, or use smaller batches." if full else ""
            raise EngineError(f"ONNX Runtime failed: {text.rstrip('.')}.{remedy}") from error

    def _host(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Page-locked memory for one input or output, grown to the largest shape so far."""
        size = int(np.prod(shape)) * dtype.itemsize
        if name not in self._staging or self._staging[name].nbytes < size:
            old = self._staging.pop(name, None)
            if old is not None:
                self.cuda.free(old.ctypes.data)
            self._staging[name] = self.cuda.pinned(size)
        return self._staging[name][:size].view(dtype).reshape(shape)

    def _drop(self, key: tuple[int, int]) -> None:
        shape = self._kept.pop(key)
        self._release_graph(shape)
        for address in shape.addresses.values():
            self.cuda.free(address)

    def _release_graph(self, shape: _Shape) -> None:
        if shape.graph is not None:
            self.session.release_captured_graph(shape.graph)


def _sizes(spec: TensorSpec, batch: int, k: int) -> tuple[int, ...]:
    """The shape with its free dimensions set: the first is the batch, except of ``slots``, another is the budget."""
    free = [k if spec.name == "slots" or axis else batch for axis in range(len(spec.shape))]
    return tuple(size if isinstance(size, int) else free[axis] for axis, size in enumerate(spec.shape))
