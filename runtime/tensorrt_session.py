"""Sessions on TensorRT and TensorRT-RTX engines: pinned memory, one stream, events around each stage, CUDA graphs.

Each pair of batch and budget has its own execution context with its shapes set, and its own CUDA graph where graphs are
used: a captured graph is valid only while its context keeps its shapes. TensorRT-RTX has the same Python interface.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tokfilter.artifacts.checked import checked_bytes, checked_library
from tokfilter.errors import EngineError
from tokfilter.runtime.cuda import Cuda, cuda_from_name
from tokfilter.runtime.cuda_graph import Graphs
from tokfilter.runtime.model_files import ModelFile, budgets_from_model_file
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Compute, Result, TensorSpec, Timing
from tokfilter.runtime.stages import output_lengths
from tokfilter.trt.engine import (
    Profile,
    capturable,
    context_from_engine,
    engine_from_plan,
    numpy_type,
    profiles_are_shared,
    profiles_from_engine,
    serving_profile,
)
from tokfilter.trt.log import logged_errors
from tokfilter.trt.module import tensorrt_module

if TYPE_CHECKING:
    from tokfilter.trt.types import Dims, ICudaEngine, IExecutionContext

__all__ = ["TensorRTSession"]

_CONTEXTS: Final = 8
"""Contexts kept, least recently used evicted first: each holds the activations of its shapes on the device."""


@dataclass(frozen=True)
class _Buffer:
    """One input or output: its type, its device address, and its page-locked copy on the host."""

    dtype: np.dtype[Any]
    address: int
    host: Array

    def view(self, shape: tuple[int, ...]) -> Array:
        """The first bytes of the host memory as an array of that shape."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        return self.host[:size].view(self.dtype).reshape(shape)


@dataclass(frozen=True)
class _Prepared:
    """A context with its shapes set, its profile's index, the shapes of its outputs, and its captured graph."""

    context: "IExecutionContext"
    profile: int
    outputs: dict[str, tuple[int, ...]]
    graph: int | None


@dataclass
class TensorRTSession(CheckedSession):
    """One plan on one GPU. Not safe for several threads: a second caller gets EngineError; open one session per thread.

    cuda_graph: capture each shape once and replay it; a capture that fails raises EngineError
    backend: pycuda or cuda-python; None takes the first that is installed
    device: number of the GPU
    """

    model_file: ModelFile
    cuda_graph: bool = False
    backend: str | None = None
    device: int = 0
    _module: Any = field(default=None, init=False, repr=False)
    _engine: "ICudaEngine | None" = field(default=None, init=False, repr=False)
    _outlived: Any = field(default=None, init=False, repr=False)
    _cuda: Cuda | None = field(default=None, init=False, repr=False)
    _graphs: Graphs | None = field(default=None, init=False, repr=False)
    _profiles: list[Profile] = field(default_factory=list, init=False, repr=False)
    _buffers: dict[str, _Buffer] = field(default_factory=dict, init=False, repr=False)
    _prepared: "OrderedDict[tuple[int, int], _Prepared]" = field(default_factory=OrderedDict, init=False, repr=False)

    def _open(self) -> Callable[[], None]:
        entry, manifest = self.model_file.entry, self.model_file.manifest
        directory = self.model_file.directory
        plan = checked_bytes(directory, entry)
        plugins = {e.path: checked_library(directory, e) for e in manifest.entries("plugin", entry.runtime)}
        self._module = module = tensorrt_module(entry.runtime or "tensorrt")
        self._cuda = cuda = cuda_from_name(self.backend, self.device)
        try:
            with cuda.current():
                self._engine, self._outlived = engine_from_plan(module, plan, entry, plugins)
                self._graphs = Graphs() if self.cuda_graph else None
                self._profiles = profiles_from_engine(self._engine)
                self._describe(module, self._engine)
                self._allocate(cuda)
        except BaseException:
            self._release()
            raise
        return self._release

    def _describe(self, module: Any, engine: "ICudaEngine") -> None:
        specs: dict[bool, list[TensorSpec]] = {True: [], False: []}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            dims = _sizes(engine.get_tensor_shape(name))
            shape = tuple("k" if n < 0 else n for n in dims) if name == "slots" else _batched(dims)
            is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            dtype = numpy_type(engine.get_tensor_dtype(name))
            specs[is_input].append(TensorSpec(name, shape, dtype))
        self.inputs, self.outputs = tuple(specs[True]), tuple(specs[False])
        names = [spec.name for spec in self.inputs]
        first = self.model_file.manifest.model.output_name
        outputs = [spec.name for spec in self.outputs]
        if "images" not in names or first not in outputs:
            raise EngineError(
                f"a plan must have an input images and an output {first}; this one has {names} and {outputs}. Export "
                "again."
            )
        budgets = budgets_from_model_file(self.model_file, elastic="slots" in names)
        ranges = [p.budget for p in self._profiles if p.budget is not None]
        if ranges:
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            budgets = Budgets(low, high, min(max(budgets.default, low), high), budgets.num_patches)
        self._budgets = budgets

    def _allocate(self, cuda: Cuda) -> None:
        """Allocate buffers for the largest shapes of all profiles, so that their addresses never change."""
        largest = {"batch": max(p.batch[1] for p in self._profiles), "k": self.budgets.high}
        self._stream = cuda.stream()
        self._events = [cuda.event() for _ in range(4)]
        card = self.model_file.manifest.model
        lengths = output_lengths(card.reducer, card.choices, card.num_patches, self.budgets.high)
        for spec in (*self.inputs, *self.outputs):
            shape = [largest[d] if isinstance(d, str) else d for d in spec.shape]
            if spec.name in lengths:
                shape[1] = max(lengths[spec.name], shape[1])
            size = int(np.prod(shape)) * spec.dtype.itemsize
            self._buffers[spec.name] = _Buffer(spec.dtype, cuda.allocate(size), cuda.pinned(size))

    def _execute(self, images: Array, k: int) -> Result:
        assert self._cuda is not None
        with self._cuda.current():
            prepared = self._prepare(images.shape[0], k)
            timing = self._transfer_and_compute(self._cuda, prepared, images)
        results = {name: self._buffers[name].view(shape).copy() for name, shape in prepared.outputs.items()}
        return Result.from_outputs(results, self.model_file.manifest.model.output_name, timing)

    def _transfer_and_compute(self, cuda: Cuda, prepared: _Prepared, images: Array) -> Timing:
        stream, events, buffers = self._stream, self._events, self._buffers
        source = buffers["images"].view(images.shape)
        np.copyto(source, images)
        cuda.record(events[0], stream)
        cuda.to_device(buffers["images"].address, source, stream)
        cuda.record(events[1], stream)
        start = perf_counter()
        self._launch(prepared)
        enqueue = (perf_counter() - start) * 1e3
        cuda.record(events[2], stream)
        for name, shape in prepared.outputs.items():
            cuda.to_host(buffers[name].view(shape), buffers[name].address, stream)
        cuda.record(events[3], stream)
        cuda.synchronize(stream)
        h2d, compute, d2h = (cuda.milliseconds(a, b) for a, b in pairwise(events))
        return Timing(h2d, compute, d2h, enqueue)

    def _repeat(self, images: Array, k: int, seconds: float) -> list[Compute]:
        assert self._cuda is not None
        cuda, stream, (begin, end, *_) = self._cuda, self._stream, self._events
        times: list[Compute] = []
        with cuda.current():
            prepared = self._prepare(images.shape[0], k)
            self._transfer_and_compute(cuda, prepared, images)  # the images stay in device memory
            now = start = perf_counter()
            while not times or now - start < seconds:
                before = now
                cuda.record(begin, stream)
                self._launch(prepared)
                cuda.record(end, stream)
                cuda.synchronize(stream)
                now = perf_counter()
                times.append(Compute((now - before) * 1e3, cuda.milliseconds(begin, end)))
                now = perf_counter()  # reading the events is no part of the next call
        return times

    def _launch(self, prepared: _Prepared) -> None:
        if prepared.graph is not None and self._graphs is not None:
            self._graphs.launch(prepared.graph, self._stream)
        else:
            self._enqueue(prepared.context)

    def _prepare(self, batch: int, k: int) -> _Prepared:
        """The context for a batch at k tokens, created at its first use."""
        key = (batch, k)
        if key not in self._prepared:
            profile = serving_profile(self._profiles, batch, k)  # raises before any context is evicted
            if len(self._prepared) >= _CONTEXTS:
                self._evict(next(iter(self._prepared)))
            if not profiles_are_shared(self._module, self.model_file.entry):
                for other in [key for key, held in self._prepared.items() if held.profile == profile.index]:
                    self._evict(other)
            self._prepared[key] = self._new_context(profile, batch, k)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def _evict(self, key: tuple[int, int]) -> None:
        """Release the context of a batch and budget, and its graph."""
        held = self._prepared.pop(key)
        if held.graph is not None and self._graphs is not None:
            self._graphs.drop(held.graph)

    def _new_context(self, profile: Profile, batch: int, k: int) -> _Prepared:
        assert self._engine is not None and self._cuda is not None
        context = context_from_engine(self._module, self._engine, captured=self._graphs is not None)
        if context is None or not context.set_optimization_profile_async(profile.index, self._stream):
            raise EngineError(
                f"TensorRT has no context for a batch of {batch} at {k} tokens: {logged_errors(self._module)}. "
                "Free device memory, or use smaller batches."
            )
        self._set_inputs(context, {"batch": batch, "k": k})
        outputs = {spec.name: _sizes(context.get_tensor_shape(spec.name)) for spec in self.outputs}
        # The first enqueue after a change of shapes must stay outside a capture (NVIDIA/TensorRT issue 2603).
        self._enqueue(context)
        self._cuda.synchronize(self._stream)
        return _Prepared(context, profile.index, outputs, self._capture(context))

    def _set_inputs(self, context: "IExecutionContext", sizes: dict[str, int]) -> None:
        for spec in self.inputs:
            shape = tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
            if not context.set_input_shape(spec.name, shape):
                raise EngineError(
                    f"TensorRT refuses {spec.name} of shape {list(shape)}: {logged_errors(self._module)}. "
                    "Build the engine with other ranges."
                )
        for spec in (*self.inputs, *self.outputs):
            if not context.set_tensor_address(spec.name, self._buffers[spec.name].address):
                raise EngineError(
                    f"TensorRT refuses the memory for {spec.name}: {logged_errors(self._module)}. Export again."
                )

    def _capture(self, context: "IExecutionContext") -> int | None:
        if self._graphs is None:
            return None
        if not capturable(context, self._stream):
            raise EngineError("TensorRT-RTX cannot run this plan inside a CUDA graph: run with cuda_graph=False.")
        self._graphs.begin(self._stream)
        try:
            self._enqueue(context)
        except EngineError as error:
            with suppress(EngineError):  # the stream is unusable until its capture ends
                self._graphs.drop(self._graphs.end(self._stream))
            raise EngineError(f"{error} This was during CUDA graph capture: run with cuda_graph=False.") from error
        return self._graphs.end(self._stream)

    def _enqueue(self, context: "IExecutionContext") -> None:
        if not context.execute_async_v3(self._stream):
            raise EngineError(
                f"TensorRT could not enqueue the inference: {logged_errors(self._module)}. Use smaller batches if "
                "memory is short, else build the plan again on this machine: `tokfilter engine`."
            )

    def _release(self) -> None:
        assert self._cuda is not None
        cuda, graphs = self._cuda, self._graphs
        with cuda.current():
            self._prepared.clear()
            self._engine = None
            self._outlived = self._graphs = self._cuda = None
            self._buffers.clear()
            self._events = []
            if graphs is not None:
                graphs.close()
            cuda.close()


def _batched(dims: tuple[int, ...]) -> tuple[int | str, ...]:
    """Dimensions with the dynamic ones named: the first is the batch, another the budget."""
    return tuple(n if n >= 0 else "batch" if d == 0 else "k" for d, n in enumerate(dims))


def _sizes(dims: "Dims") -> tuple[int, ...]:
    return tuple(int(dims[i]) for i in range(len(dims)))
