"""Plans from ONNX graphs: one builder for TensorRT and TensorRT-RTX.

TensorRT builds on the GPU that will run the engine, with TokenSelect's fused kernel from tokfilter's plugin library.
TensorRT-RTX builds without a GPU, for the compute capabilities that are given, from native ops (it loads no plugins).
What differs between versions stands in ``trt/versions.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokfilter.artifacts.files import atomic_path
from tokfilter.artifacts.manifest import Range
from tokfilter.errors import EngineError
from tokfilter.trt.gpus import gpus
from tokfilter.trt.graph_file import has_functions
from tokfilter.trt.layers import keep_in_fp32
from tokfilter.trt.module import EngineKind, name_and_version, tensorrt_module
from tokfilter.trt.network import Network
from tokfilter.trt.plugins import load_plugins
from tokfilter.trt.versions import way_of

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["HARDWARE", "BuildOptions", "build_engine", "check_precision"]

_SMALL_GRAPH: Final = 8 << 20
"""Bytes of a graph below which the size of a plan says nothing of its weights."""

_FP32_SHARE: Final = 0.75
"""A plan has half of its fp32 graph's bytes with weights in fp16 (44 of 88 MB on an H100), in fp32 nearly all.

In int8 it has a quarter. A plan with a few layers in fp32 stays below the limit: the size shows only what is wholly so.
"""

_BUILDER_FLAGS: Final = {"fp16": ("FP16",), "int8": ("FP16", "INT8")}
"""Precision of which TensorRT 8 computes those layers in less than fp32 that are faster so -> flags of its builder."""

HARDWARE: Final = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    batch, budget: (min, opt, max) of the profile; budget is in tokens
    precision: fp32, fp16, bf16, int8 or fp8. The graph's types decide; TensorRT 8 builds fp16 from an fp32 graph, and
        int8 from one with Q/DQ nodes, whose other layers it computes in fp16 where it finds that faster
    fp32_layers: names of ONNX nodes whose layers stay in fp32 when TensorRT 8 builds fp16 or int8
    plugin: the plugin library for TensorRT; None builds from native ops
    workspace: limit of scratch memory in MiB; None leaves TensorRT's
    timing_cache: file that is read if it exists, and written; TensorRT only (TensorRT-RTX would need a GPU)
    version_compatible: the plan runs on later TensorRT versions too, the plugin inside it
    hardware: a key of HARDWARE: the other GPUs that the plan shall run on
    compute_capabilities: targets of TensorRT-RTX such as "SM89"; empty means every one that it supports
    detailed: the plan holds what the engine inspector shows of each layer, such as the names of kernels
    """

    batch: Range
    budget: Range
    precision: str = "fp32"
    fp32_layers: tuple[str, ...] = ()
    plugin: Path | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    detailed: bool = False


def build_engine(kind: EngineKind, graph: Path, plan: Path, options: BuildOptions) -> dict[str, Any]:
    """Build the file ``plan`` from the ONNX file ``graph``.

    Returns the target for the manifest. Raises MissingDependencyError (no TensorRT, GPU or driver), EngineError.
    """
    module = tensorrt_module(kind)
    network = Network(module)
    check_precision(module, options.precision, options.fp32_layers)
    plugin = options.plugin if kind == "tensorrt" else None
    if plugin is not None:
        load_plugins(module, network.builder.get_plugin_registry(), {str(plugin): plugin})
    if network.way.graph != "typed" and has_functions(graph):
        raise EngineError(
            f"{name_and_version(module)} reads no model-local functions, and {graph.name} has some: expected a graph "
            "for this version. `tokfilter engine` and `tokfilter export` make one."
        )
    network.parse(graph)
    _add_profile(network, options)
    _configure(network, options, plugin)
    kept = _choose_types(network, options)
    if kind == "tensorrt":
        _load_timing_cache(network.config, options.timing_cache)
    else:
        _set_compute_capabilities(network, options.compute_capabilities)
    serialized = memoryview(network.build(graph.name))
    if network.way.precision == "layers" and options.precision in _BUILDER_FLAGS and not options.fp32_layers:
        _check_weights(module, graph, serialized.nbytes, options)
    with atomic_path(plan) as part, part.open("wb") as file:
        file.write(serialized)
    if kind == "tensorrt" and options.timing_cache is not None:
        with atomic_path(options.timing_cache) as part:
            part.write_bytes(memoryview(network.config.get_timing_cache().serialize()))
    return _target(kind, module, options, plugin) | kept


def check_precision(module: Any, precision: str, fp32_layers: Sequence[str] = ()) -> None:
    """Raise EngineError where this version builds no engine in ``precision``, or takes no names of layers."""
    way = way_of(module)
    if way.precision == "layers" and precision not in ("fp32", *_BUILDER_FLAGS):
        raise EngineError(
            f"{name_and_version(module)} has no {precision}: expected fp32, fp16 or int8. Choose one with --precision, "
            "or build with TensorRT 10.3 or later."
        )
    if way.precision == "types" and fp32_layers:
        raise EngineError(
            f"{name_and_version(module)} takes every layer's type from the graph; got {len(fp32_layers)} layers to "
            "keep in fp32. Only TensorRT 8 is given their names."
        )


def _choose_types(network: Network, options: BuildOptions) -> dict[str, Any]:
    """In TensorRT 8: let the builder choose fp16, except for ``fp32_layers``. Returns what the manifest says of it.

    The Q/DQ nodes of an int8 graph need the flag INT8, and no calibrator: their scales are in the graph.
    """
    if network.way.precision == "types":
        return {}
    flags = network.module.BuilderFlag
    target: dict[str, Any] = {
        "graph": network.way.graph,
        "plugin_interface": network.way.plugin,
        "shared_profiles": True,
    }
    if options.precision in _BUILDER_FLAGS:
        for flag in _BUILDER_FLAGS[options.precision]:
            network.config.set_flag(getattr(flags, flag))
        if options.fp32_layers:
            network.config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        missing = set(keep_in_fp32(network.module, network.definition, options.fp32_layers))
        target["fp32_layers"] = [name for name in options.fp32_layers if name not in missing]
    return target


def _check_weights(module: Any, graph: Path, size: int, options: BuildOptions) -> None:
    """Refuse a plan of fp16 or int8 that holds the weights of its fp32 graph in fp32.

    TensorRT 8.6.0 on an H100 has no fp16 kernels for blocks whose number of tokens is a range ("Could not find any
    implementation" where fp16 is demanded); where it may choose, it silently computes them in fp32 (docs/gpu.md).
    The int8 graph for TensorRT 8 has fp32 weights too, before their Q/DQ nodes.

    size: of the plan in bytes
    """
    weights = graph.stat().st_size
    if weights < _SMALL_GRAPH or size < _FP32_SHARE * weights:
        return
    low, best, high = options.budget
    raise EngineError(
        f"{name_and_version(module)} found no {options.precision} kernels for {graph.name} at {low} to {high} tokens: "
        f"the plan has {size >> 20} MiB, its weights in fp32 have {weights >> 20}. Build for one number of tokens "
        f"(--budget {best}:{best}:{best}, or export --keep, then engine), or take --precision fp32."
    )


def _add_profile(network: Network, options: BuildOptions) -> None:
    shapes = {}
    for index in range(network.definition.num_inputs):
        tensor = network.definition.get_input(index)
        low, best, high = options.budget if tensor.name == "slots" else options.batch
        shape: Any = tensor.shape  # iterable, which TensorRT's type stubs do not declare
        others = list(shape)[1:]
        shapes[tensor.name] = ([low, *others], [best, *others], [high, *others])
    network.add_profile(shapes)


def _configure(network: Network, options: BuildOptions, plugin: Path | None) -> None:
    module, config = network.module, network.config
    # TensorRT's default for fp32 is TF32, which has as few digits as fp16: scores would differ, and so the kept tokens.
    config.clear_flag(module.BuilderFlag.TF32)
    if network.way.precision == "layers":
        # For a plugin, TensorRT 8 loads cuBLAS and cuDNN, which no layer here needs and a machine may not have.
        config.set_tactic_sources(0)
        # A session has one context per batch and budget, and 8.6 lets only one context use a profile by default.
        config.set_preview_feature(module.PreviewFeature.PROFILE_SHARING_0806, True)
    if options.workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
        if plugin is not None:
            config.plugins_to_serialize = [str(plugin)]
    if options.detailed:
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.hardware != "none":
        config.hardware_compatibility_level = _member(module, "HardwareCompatibilityLevel", HARDWARE[options.hardware])


def _set_compute_capabilities(network: Network, names: tuple[str, ...]) -> None:
    config: Any = network.config  # TensorRT's type stubs lack what only TensorRT-RTX has
    if names:
        config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(_member(network.module, "ComputeCapability", name.upper()), index)


def _member(module: Any, enumeration: str, name: str) -> Any:
    members = getattr(module, enumeration).__members__
    if name not in members:
        known = ", ".join(sorted(members))
        raise EngineError(f"{name_and_version(module)} has no {enumeration} {name}; it has {known}.")
    return members[name]


def _load_timing_cache(config: "trt.IBuilderConfig", path: Path | None) -> None:
    if path is None:
        return
    content = path.read_bytes() if path.is_file() else b""
    # A cache of another GPU or version must not be used: False rejects it, and an empty one takes its place.
    if not config.set_timing_cache(config.create_timing_cache(content), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _target(kind: EngineKind, module: Any, options: BuildOptions, plugin: Path | None) -> dict[str, Any]:
    """The versions, GPU and options that the plan was built for, as plain values."""
    target: dict[str, Any] = {
        "version": module.__version__,
        "plugin": None if plugin is None else "serialized" if options.version_compatible else plugin.name,
        "version_compatible": options.version_compatible,
        "hardware": options.hardware,
    }
    if kind == "tensorrt-rtx":
        target["compute_capabilities"] = list(options.compute_capabilities) or "all"
    else:
        target["gpu"] = _gpu_name()
    return target


def _gpu_name() -> str | None:
    """Name and compute capability of this machine's GPU; None without NVML, or where its GPUs differ."""
    names = {f"{gpu.name}, {gpu.compute_capability}" for gpu in gpus()}
    return names.pop() if len(names) == 1 else None
