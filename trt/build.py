"""Engines from graphs: one builder for TensorRT (10.3 to 11.4) and TensorRT-RTX, which share their Python interface.

Networks are strongly typed: precision comes from the graph alone. TensorRT builds on the GPU that will run the engine
and takes TokenSelect's fused kernel from our plugin library; TensorRT-RTX builds with no GPU, for the compute
capabilities asked for, from native ops (it loads no plugins). This module and ``runtime`` are the only ones that import
either, and only inside functions.
"""

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tokfilter.artifacts.files import atomic_path
from tokfilter.artifacts.manifest import Range
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.trt.gpus import gpus
from tokfilter.trt.remedies import sentence_from_log, sentences_from_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tensorrt as trt

__all__ = ["HARDWARE", "BuildOptions", "EngineKind", "engine_from_graph", "tensorrt_module"]

EngineKind = Literal["tensorrt", "tensorrt-rtx"]

HARDWARE: Final = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}

_MODULES: Final = {
    "tensorrt": (
        "tensorrt",
        "pip install 'tokfilter[trt]' (on a Jetson JetPack brings it: apt install python3-libnvinfer)",
    ),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install 'tokfilter[rtx]'"),
}

_PLUGIN_OVER_FUNCTION: Final = (10, 7)
"""TensorRT's ONNX parser prefers a loaded plugin to a model-local function from this version on (its change log)."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    batch, budget: (min, opt, max) of the profile; budget is in tokens
    plugin: the plugin library for TensorRT; None takes native ops
    workspace: limit of scratch memory in MiB; None leaves TensorRT's
    timing_cache: file that is read if there, and written; TensorRT only (TensorRT-RTX would want a GPU)
    version_compatible: the plan runs on later TensorRT versions too, the plugin inside it
    hardware: a key of HARDWARE: which other GPUs the plan shall run on
    compute_capabilities: targets of TensorRT-RTX such as "SM89"; empty means every one that it supports
    """

    batch: Range
    budget: Range
    plugin: Path | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: str = "none"
    compute_capabilities: tuple[str, ...] = ()


def tensorrt_module(kind: EngineKind) -> Any:
    """TensorRT's or TensorRT-RTX's Python module. Raises MissingDependencyError with the command that brings it."""
    name, remedy = _MODULES[kind]
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"an engine wants the package {name}, which cannot be imported: {remedy}."
        ) from error
    if not hasattr(module, "Builder"):  # type stubs leave a folder of this name without code
        raise MissingDependencyError(f"an engine wants the package {name}, here are only its type stubs: {remedy}.")
    return module


def engine_from_graph(kind: EngineKind, graph: Path, plan: Path, options: BuildOptions) -> dict[str, Any]:
    """Build ``plan`` from the ONNX file ``graph``.

    Returns what it was built for and with. Raises MissingDependencyError (no TensorRT, GPU or driver), EngineError.
    """
    module = tensorrt_module(kind)
    logger = _logger(module)
    logger.errors.clear()
    build = _Build(module, kind, logger, options)
    with _graph_for(build, graph) as source:
        build.parse(source)
        config = build.configure()
        serialized = build.builder.build_serialized_network(build.network, config)
    if serialized is None:
        raise EngineError(sentence_from_log(logger.errors, f"{kind} cannot build {graph.name}"))
    with atomic_path(plan) as part, part.open("wb") as file:
        file.write(memoryview(serialized))
    build.save_timing_cache(config)
    return build.target()


class _Build:
    """One engine under construction."""

    builder: "trt.Builder"
    network: "trt.INetworkDefinition"

    def __init__(self, module: Any, kind: EngineKind, logger: Any, options: BuildOptions) -> None:
        self.module, self.kind, self.logger, self.options = module, kind, logger, options
        try:
            self.builder = module.Builder(logger)
        except (TypeError, RuntimeError) as error:
            raise MissingDependencyError(
                f"{kind} builds engines on the GPU that runs them, and none can be used here "
                f"({' / '.join(logger.errors) or error}). Run the same command on that machine, with an NVIDIA driver "
                "(in a container: --gpus all); --rtx builds without a GPU."
            ) from error
        self.network = self.builder.create_network(_creation_flags(module))
        self.plugin = options.plugin if kind == "tensorrt" else None
        if self.plugin is not None and self.builder.get_plugin_registry().load_library(str(self.plugin)) is None:
            raise EngineError(
                sentence_from_log(logger.errors, f"TensorRT {module.__version__} cannot load the plugin {self.plugin}")
            )

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.module.__version__.split(".")[:2]
        return int(major), int(minor)

    def parse(self, graph: Path) -> None:
        parser: trt.OnnxParser = self.module.OnnxParser(self.network, self.logger)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            raise EngineError(f"{self.kind} cannot read {graph.name}: {sentences_from_parser(errors)}")

    def configure(self) -> "trt.IBuilderConfig":
        config, options = self.builder.create_builder_config(), self.options
        profile = self.builder.create_optimization_profile()
        for index in range(self.network.num_inputs):
            tensor = self.network.get_input(index)
            lengths = options.budget if tensor.name == "slots" else options.batch
            shape: Any = tensor.shape
            low, best, high = (self.module.Dims([length, *list(shape)[1:]]) for length in lengths)
            profile.set_shape(tensor.name, low, best, high)
        config.add_optimization_profile(profile)
        if options.workspace is not None:
            config.set_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE, options.workspace << 20)
        if options.version_compatible:
            config.set_flag(self.module.BuilderFlag.VERSION_COMPATIBLE)
            if self.plugin is not None:
                config.plugins_to_serialize = [str(self.plugin)]
        if options.hardware != "none":
            config.hardware_compatibility_level = self._member("HardwareCompatibilityLevel", HARDWARE[options.hardware])
        if self.kind == "tensorrt":
            self._load_timing_cache(config)
        else:
            self._set_targets(config)
        return config

    def _set_targets(self, config: Any) -> None:
        wanted = self.options.compute_capabilities
        if not wanted:
            return
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(self._member("ComputeCapability", name.upper()), index)

    def _member(self, enumeration: str, name: str) -> Any:
        kind = getattr(self.module, enumeration)
        if name not in kind.__members__:
            known = ", ".join(sorted(kind.__members__))
            raise EngineError(f"{self.kind} {self.module.__version__} knows no {enumeration} {name}; it knows {known}.")
        return kind.__members__[name]

    def _load_timing_cache(self, config: "trt.IBuilderConfig") -> None:
        path = self.options.timing_cache
        if path is not None:
            content = path.read_bytes() if path.is_file() else b""
            # A cache of another GPU or version is worth nothing and must not be used: False refuses it.
            if not config.set_timing_cache(config.create_timing_cache(content), False):
                config.set_timing_cache(config.create_timing_cache(b""), False)

    def save_timing_cache(self, config: "trt.IBuilderConfig") -> None:
        path = self.options.timing_cache
        if path is not None and self.kind == "tensorrt":
            with atomic_path(path) as part:
                part.write_bytes(memoryview(config.get_timing_cache().serialize()))

    def target(self) -> dict[str, Any]:
        """What the plan was built for and with, as plain values."""
        options = self.options
        plugin = None
        if self.plugin is not None:
            plugin = "serialized" if options.version_compatible else self.plugin.name
        target: dict[str, Any] = {
            "version": self.module.__version__,
            "plugin": plugin,
            "version_compatible": options.version_compatible,
            "hardware": options.hardware,
        }
        if self.kind == "tensorrt-rtx":
            target["compute_capabilities"] = list(options.compute_capabilities) or "all"
        else:
            target["gpu"] = _gpu_name()
        return target


@contextmanager
def _graph_for(build: _Build, graph: Path) -> "Iterator[Path]":
    """``graph``, or a copy without functions where this TensorRT would prefer them to the plugin."""
    if build.plugin is None or build.version >= _PLUGIN_OVER_FUNCTION:
        yield graph
        return
    try:
        from tokfilter.export.functions import without_functions
        from tokfilter.export.onnx_file import load_graph, save_graph
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"TensorRT {build.module.__version__} prefers a graph's function to the plugin; taking it out wants the "
            f"package {error.name}: pip install onnx-ir, or build from native ops with --no-plugin."
        ) from error
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        stripped = Path(scratch) / graph.name
        save_graph(without_functions(load_graph(graph)), stripped)
        yield stripped


def _creation_flags(module: Any) -> int:
    """Strongly typed; TensorRT 11 types every network strongly and keeps the flag without effect."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _gpu_name() -> str | None:
    """Name and compute capability of this machine's GPU; None without NVML, or where its GPUs differ."""
    names = {f"{gpu.name}, {gpu.compute_capability}" for gpu in gpus()}
    return names.pop() if len(names) == 1 else None


@cache
def _logger(module: Any) -> Any:
    """A logger that keeps what goes wrong, because the calls return only None. TensorRT wants one per process."""

    class Kept(module.ILogger):  # type: ignore[misc]  # the base class exists only where TensorRT is installed
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Kept()
