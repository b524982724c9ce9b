"""Sessions on OpenVINO, on the CPU: fp32, bf16, fp16 and int8, any batch and any budget per call."""

import io
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.checked import check_file, checked_bytes, checked_file
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import ModelFile, budgets_from_tensors
from tokfilter.runtime.openvino_cache import ModelCache, cache_key, model_cache
from tokfilter.runtime.openvino_engine import (
    OpenVinoOptions,
    check_capability,
    check_compiled,
    compile_properties,
    graph_error,
    imported_openvino,
)
from tokfilter.runtime.session import Array, CheckedSession, Result, TensorSpec, check_images

__all__ = ["MOST_SHAPES", "OpenVinoSession"]

MOST_SHAPES = 8
"""Compiled models of fixed shapes in memory, each with the weights; the least recently used go first."""

Shape = tuple[int, int]
"""Images of a batch, kept tokens."""

_DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64, "u8": np.uint8}
_FREE = {"slots": "kept"}
"""Name of an input -> name of its first dimension where that is not the batch."""


@dataclass
class OpenVinoSession(CheckedSession):
    """One graph in OpenVINO. Safe for several threads: each call takes an infer request of its own from a pool.

    options: precision, hint, streams, threads, fixed_shapes
    cache: whether compiled models are kept in the user's cache folder (``runtime.openvino_cache``)
    cache_use: "read", "written", or why the cache was not used; empty before ``with``
    """

    model_file: ModelFile
    options: OpenVinoOptions = field(default_factory=OpenVinoOptions)
    cache: bool = True
    cache_use: str = field(default="", init=False)
    _openvino: Any = field(default=None, init=False, repr=False)
    _core: Any = field(default=None, init=False, repr=False)
    _compiled: Any = field(default=None, init=False, repr=False)
    _requests: "OrderedDict[Shape | None, _Requests]" = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: Any = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.thread_safe = True

    def _open(self) -> Callable[[], None]:
        self._openvino = imported_openvino()
        core = self._openvino.Core()
        check_capability(core, self.options.precision)
        compiled = self._loaded(core)
        self._describe(compiled, self._path)
        self._core, self._compiled = core, compiled
        self._requests[None] = _Requests(compiled)
        return self._release

    @property
    def _path(self) -> str:
        return str(self.model_file.directory / self.model_file.entry.path)

    def _loaded(self, core: Any, shape: Shape | None = None) -> Any:
        """The compiled model, which computes in the type asked for. shape: None leaves batch and budget free."""
        compiled = self._load(core, shape)
        check_compiled(compiled, self.options.precision, self._path)
        return compiled

    def _load(self, core: Any, shape: Shape | None) -> Any:
        """The compiled model, from the cache where it has one."""
        properties, cache = compile_properties(self.options), model_cache(self.cache)
        entry, version = self.model_file.entry, str(self._openvino.__version__)
        named = properties if shape is None else {**properties, "shape": shape}
        key = cache_key(
            [entry.sha256, entry.external], named, version, str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        )
        found = self._imported(core, cache, key, properties)
        if found is not None:
            check_file(self.model_file.directory, entry)  # a changed file is refused, whatever the cache holds
            self.cache_use = "read"
            return found
        try:
            compiled = self._compile(core, properties, shape)
        except EngineError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and others; each means that this file does not load
            raise graph_error(self._path, error) from error
        self.cache_use = self._kept(compiled, cache, key)
        return compiled

    def _compile(self, core: Any, properties: dict[str, Any], shape: Shape | None) -> Any:
        directory, entry = self.model_file.directory, self.model_file.entry
        if not entry.external:
            model = core.read_model(checked_bytes(directory, entry))
            return core.compile_model(_with_shape(model, shape), "CPU", properties)
        with checked_file(directory, entry) as graph:  # external weights are found beside the graph
            return core.compile_model(_with_shape(core.read_model(str(graph)), shape), "CPU", properties)

    def _imported(self, core: Any, cache: ModelCache, key: str, properties: dict[str, Any]) -> Any:
        blob = cache.read(key)
        if blob is None:
            return None
        try:
            return core.import_model(io.BytesIO(blob), "CPU", properties)
        except Exception:  # of another build of OpenVINO, or of a CPU with other instructions: compile again
            cache.forget(key)
            return None

    def _kept(self, compiled: Any, cache: ModelCache, key: str) -> str:
        if cache.folder is None:
            return f"off: {cache.off}"
        try:
            exported = compiled.export_model()
        except Exception as error:  # the model runs all the same
            return f"off: OpenVINO cannot export this model ({type(error).__name__})"
        blob = exported if isinstance(exported, bytes) else exported.getvalue()
        return "written" if cache.write(key, blob) else f"off: {cache.folder} cannot be written"

    def _describe(self, compiled: Any, path: str) -> None:
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._budgets = budgets_from_tensors(self.model_file, self.inputs, self.outputs, path)

    def _release(self) -> None:
        self._requests.clear()
        self._core = self._compiled = None

    def _feeds(self, images: Array, k: int) -> dict[str, Array]:
        feeds: dict[str, Array] = {"images": np.ascontiguousarray(images)}
        if len(self.inputs) == 2:
            feeds["slots"] = np.zeros(k, np.int32)
        return feeds

    def _execute(self, images: Array, k: int) -> Result:
        requests = self._requests_for((len(images), k))
        request = requests.take()
        result = self._infer(request, images, k)
        requests.free.append(request)  # not after an error
        return result

    def _infer(self, request: Any, images: Array, k: int) -> Result:
        try:
            outputs = request.infer(self._feeds(images, k), share_inputs=True)
        except Exception as error:  # see _load
            raise EngineError(f"OpenVINO failed at {k} tokens: {_first_line(error)}") from error
        names = [spec.name for spec in self.outputs]
        return Result.from_outputs({name: outputs[i] for i, name in enumerate(names)}, names[0])

    def _requests_for(self, shape: Shape) -> "_Requests":
        """The requests of a batch and budget: of the one model for all, or of the model that is compiled for these."""
        with self._lock:
            if self._compiled is None:
                raise EngineError("this session is closed: use it inside its `with` block, or open another.")
            if not self.options.fixed_shapes:
                return self._requests[None]
            if shape not in self._requests:
                self._requests[shape] = _Requests(self._loaded(self._core, shape))
                if len(self._requests) > MOST_SHAPES + 1:  # the first is that of free shapes
                    del self._requests[next(key for key in self._requests if key is not None)]
            self._requests.move_to_end(shape)
            return self._requests[shape]

    def run_queue(
        self,
        batches: Iterable[Array],
        keep: Keep | None = None,
        done: Callable[[int, Result, float], None] | None = None,
    ) -> int:
        """Run batches through OpenVINO, as many at the same time as there are streams.

        The model of free shapes runs them, whatever ``fixed_shapes`` is. Each stream has a thread here that waits for
        it, in place of OpenVINO's AsyncInferQueue: its threads take Python's lock after the last callback, and wait for
        ever where the thread that releases the model holds the lock and waits for them (OpenVINO 2026.4.1).

        batches: images as for ``run``; an iterator is read as streams become free, by one thread at a time
        done: called with the batch's position, its result and its seconds, from several threads, in any order
        Returns the number of batches, when all are done. Raises as ``run``, after those that run have ended.
        """
        self._check_open()
        k, source, lock = self.budgets.tokens(keep), iter(enumerate(batches)), Lock()
        failures = deque[BaseException](maxlen=1)

        def run_stream() -> int:
            request, count = self._compiled.create_infer_request(), 0
            while not failures:
                with lock:
                    position, images = next(source, (count, None))
                if images is None:
                    break
                check_images(images, self.inputs[0])
                started = perf_counter()
                result = self._infer(request, images, k)
                if done is not None:
                    done(position, result, perf_counter() - started)
                count += 1
            return count

        def guarded() -> int:
            try:
                return run_stream()
            except BaseException as error:  # raised again in the caller's thread; the other streams end
                failures.append(error)
                return 0

        streams = self.options.streams or int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        with ThreadPoolExecutor(streams, "openvino") as pool:
            try:
                counts = [future.result() for future in [pool.submit(guarded) for _ in range(streams)]]
            except BaseException as error:  # Ctrl-C
                failures.append(error)
        for failure in failures:
            raise failure
        return sum(counts)


@dataclass
class _Requests:
    """A compiled model and those of its infer requests that run nothing at present."""

    compiled: Any
    free: deque[Any] = field(default_factory=deque)

    def take(self) -> Any:
        try:
            return self.free.pop()
        except IndexError:  # more calls at the same time than before
            return self.compiled.create_infer_request()


def _with_shape(model: Any, shape: Shape | None) -> Any:
    """``model`` itself, its batch and the length of ``slots`` fixed."""
    if shape is not None:
        lengths = dict(zip(("images", "slots"), shape, strict=True))
        shapes = {}
        for port in model.inputs:
            name = str(port.get_any_name())
            shapes[name] = [lengths[name], *list(port.get_partial_shape())[1:]]
        model.reshape(shapes)
    return model


def _spec(port: Any) -> TensorSpec:
    name, shape = str(port.get_any_name()), port.get_partial_shape()
    sizes: list[int | str] = []
    for axis, size in enumerate(shape):
        free = _FREE.get(name, "batch") if axis == 0 else "kept" if name == "indices" else "free"
        sizes.append(free if size.is_dynamic else int(size.get_length()))
    return TensorSpec(name, tuple(sizes), np.dtype(_DTYPES.get(port.get_element_type().get_type_name(), np.float32)))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from")), type(error).__name__)[:300]
