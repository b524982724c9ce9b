"""Engines from plans: deserialise, execution contexts, optimization profiles."""

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tokfilter.artifacts.manifest import Entry
from tokfilter.errors import EngineError
from tokfilter.trt.driver import driver_failure
from tokfilter.trt.log import error_log, logged_errors, start_failure
from tokfilter.trt.module import name_and_version
from tokfilter.trt.plugins import load_plugins, plugin_is_registered
from tokfilter.trt.remedies import BUILD_AGAIN, LOAD_REMEDIES, remedy
from tokfilter.trt.versions import version_of, way_of

if TYPE_CHECKING:
    import tensorrt as trt

_VERSION: Final = re.compile(r"(\d+)\.(\d+)")

_NUMPY: Final = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's ``DataType`` -> numpy's name of it."""

__all__ = [
    "Profile",
    "capturable",
    "context_from_engine",
    "engine_from_memory",
    "engine_from_plan",
    "numpy_type",
    "profiles_are_shared",
    "profiles_from_engine",
    "serving_profile",
]


@dataclass(frozen=True)
class Profile:
    """Shapes that one optimization profile of an engine accepts, (low, high) both included.

    budget: in tokens; None where the plan has a fixed budget or none
    """

    index: int
    batch: tuple[int, int]
    budget: tuple[int, int] | None

    def serves(self, batch: int, k: int) -> bool:
        """Whether a batch at k tokens fits."""
        in_budget = self.budget is None or self.budget[0] <= k <= self.budget[1]
        return self.batch[0] <= batch <= self.batch[1] and in_budget


def engine_from_plan(
    module: Any, plan: bytes, entry: Entry, plugins: Mapping[str, Path]
) -> "tuple[trt.ICudaEngine, Any]":
    """Deserialize a plan. Returns the engine and the runtime, which has to outlive it.

    module: TensorRT's or TensorRT-RTX's Python module
    entry: the plan in the manifest
    plugins: name -> path of plugin libraries with getCreators, loaded first where the plan needs one
    Raises EngineError with TensorRT's own message, the target of the plan, and the remedy.
    """
    _check_version(module, entry)
    runtime = _new_runtime(module)
    if entry.target.get("version_compatible"):
        # Such a plan contains host code; its checksum is the manifest's.
        runtime.engine_host_code_allowed = True
    if entry.target.get("plugin") not in (None, "serialized"):
        registry = runtime.get_plugin_registry()
        if not plugins and not plugin_is_registered(module, registry):
            raise EngineError(
                f"{entry.path} needs the plugin library {entry.target['plugin']}, and manifest.json lists none. "
                f"{BUILD_AGAIN}"
            )
        load_plugins(module, registry, plugins)
    stated = (f"{key} {value}" for key, value in entry.target.items() if value and key != "fp32_layers")
    target = ", ".join(stated) or "an unknown target"
    return _deserialized(module, runtime, plan, entry.path, f" It was built for {target}."), runtime


def _check_version(module: Any, entry: Entry) -> None:
    """Refuse a plan of another version before TensorRT reads it: a damaged or foreign plan may end the process."""
    built = _VERSION.match(str(entry.target.get("version", "")))
    if built is None or entry.runtime != "tensorrt":
        return
    builder, here = (int(built[1]), int(built[2])), version_of(module)
    if builder != here and not (entry.target.get("version_compatible") and builder <= here):
        later = " or a later one" if entry.target.get("version_compatible") else ""
        raise EngineError(
            f"{entry.path} was built by TensorRT {entry.target['version']} and runs on that version{later}; this is "
            f"{name_and_version(module)}. {BUILD_AGAIN}"
        )


def numpy_type(kind: Any) -> np.dtype[Any]:
    """The numpy type of a tensor. TensorRT's own ``nptype`` names, in some 8.x, types that numpy 1.24 has no more.

    kind: a ``DataType``. Raises EngineError for a type that numpy does not have.
    """
    name = _NUMPY.get(kind.name)
    if name is None:
        raise EngineError(f"a plan's tensors must be of {', '.join(_NUMPY)}; got {kind.name}. Export again.")
    return np.dtype(name)


def engine_from_memory(module: Any, plan: "trt.IHostMemory") -> "tuple[trt.ICudaEngine, Any]":
    """Deserialize a plan that this process built, its plugins loaded. Returns the engine and its runtime."""
    runtime = _new_runtime(module)
    return _deserialized(module, runtime, plan, "the plan"), runtime


def _new_runtime(module: Any) -> "trt.Runtime":
    log = error_log(module)
    logged_errors(module)
    # Without a driver, TensorRT 8.6.0's Runtime ends the process with a segmentation fault (tried).
    reason = driver_failure() if way_of(module).network == "EXPLICIT_BATCH" else None
    cause: Exception | None = None
    if reason is None:
        try:
            runtime: trt.Runtime = module.Runtime(log)
        except (TypeError, RuntimeError) as error:  # the binding got a null pointer, and reports no more
            reason, cause = start_failure(module, error), error
        else:
            if not log.errors:
                return runtime
            # The object that 10.15 to 11.4 return without a driver crashes when it is used, and when it is deleted.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
            reason = logged_errors(module)
    raise EngineError(
        f"{name_and_version(module)} does not start: {reason}. It needs an NVIDIA driver for its CUDA version: install "
        "or update the driver; `tokfilter doctor` shows it."
    ) from cause


def _deserialized(
    module: Any, runtime: "trt.Runtime", plan: "bytes | trt.IHostMemory", name: str, built_for: str = ""
) -> "trt.ICudaEngine":
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        errors = logged_errors(module)
        raise EngineError(
            f"{name_and_version(module)} refuses {name}: {errors}.{built_for} "
            f"{remedy(errors, LOAD_REMEDIES, BUILD_AGAIN)}"
        )
    return engine


def context_from_engine(module: Any, engine: Any, captured: bool) -> "trt.IExecutionContext | None":
    """A new context, None where device memory does not suffice.

    captured: whether a CUDA graph will be captured. TensorRT-RTX runs fallback kernels until those of a shape are
        compiled in the background, and a graph would keep the fallbacks (pytorch/TensorRT, pull request 4187): EAGER
        compiles them first.
    """
    strategies = getattr(module, "DynamicShapesKernelSpecializationStrategy", None)
    context: trt.IExecutionContext | None
    if strategies is None or not captured:
        context = engine.create_execution_context()
    else:
        config = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        context = engine.create_execution_context(config)
    return context


def profiles_are_shared(module: Any, entry: Entry) -> bool:
    """Whether several contexts may use one profile at the same time.

    TensorRT 8.6 has to be told so when it builds (``PROFILE_SHARING_0806``), and 8.5 cannot: a second context of a
    profile ends the process there (8.6.0 on an H100).
    """
    return way_of(module).precision == "types" or bool(entry.target.get("shared_profiles"))


def capturable(context: Any, stream: int) -> bool:
    """Whether a CUDA graph can be captured of a context with its shapes set: always in TensorRT."""
    check = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX only
    return check is None or bool(check(stream))


def profiles_from_engine(engine: "trt.ICudaEngine") -> list[Profile]:
    """The engine's optimization profiles."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    profiles = []
    for index in range(engine.num_optimization_profiles):
        low, _, high = engine.get_tensor_profile_shape("images", index)
        budget = None
        if "slots" in names:
            shortest, _, longest = engine.get_tensor_profile_shape("slots", index)
            budget = (int(shortest[0]), int(longest[0]))
        profiles.append(Profile(index, (int(low[0]), int(high[0])), budget))
    return profiles


def serving_profile(profiles: Sequence[Profile], batch: int, k: int) -> Profile:
    """The narrowest profile that accepts a batch at k tokens. Raises EngineError with the ranges of all profiles."""
    serving = [p for p in profiles if p.serves(batch, k)]
    if not serving:
        raise EngineError(
            f"this plan serves {'; '.join(_ranges(p) for p in profiles)}; got a batch of {batch} at {k} tokens. "
            "Split the batch, or build the engine with other ranges."
        )
    return min(serving, key=lambda p: (p.batch[1] - p.batch[0], p.budget[1] - p.budget[0] if p.budget else 0))


def _ranges(profile: Profile) -> str:
    budget = "" if profile.budget is None else f" at {profile.budget[0]} to {profile.budget[1]} tokens"
    return f"batches of {profile.batch[0]} to {profile.batch[1]}{budget}"
