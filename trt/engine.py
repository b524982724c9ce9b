"""A plan file in, an engine out, and its refusals in words that say what to do."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokfilter.artifacts.manifest import Entry
from tokfilter.errors import EngineError
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = [
    "Profile",
    "capturable",
    "context_from_engine",
    "engine_from_plan",
    "logged",
    "profiles_from_engine",
    "serving_profile",
]

# What TensorRT's log says -> what to do about it.
_REMEDY: Final = "Build it again on this machine: tokfilter engine."
_REMEDIES: Final = (
    ("plugin", "The plan holds tokfilter's plugin: tokfilter plugin build, then tokfilter engine."),
    ("version", f"The plan is of another TensorRT version. {_REMEDY}"),
    ("outofmemory", "Free device memory: other processes may hold it."),
    ("incompatible device", f"The plan is for another GPU. {_REMEDY}"),
    ("compute", f"The plan is for another GPU. {_REMEDY}"),
)

_ERRORS: Final = 20
"""Errors kept: a service that goes on after an error must not grow."""


@dataclass(frozen=True)
class Profile:
    """Shapes that one optimization profile of an engine serves, (low, high) both included.

    budget: None where the plan has a fixed budget or none
    """

    index: int
    batch: tuple[int, int]
    budget: tuple[int, int] | None

    def serves(self, batch: int, k: int) -> bool:
        """Whether a batch at k tokens fits."""
        in_budget = self.budget is None or self.budget[0] <= k <= self.budget[1]
        return self.batch[0] <= batch <= self.batch[1] and in_budget


def engine_from_plan(module: Any, path: Path, entry: Entry, plugins: Sequence[Path]) -> "tuple[trt.ICudaEngine, Any]":
    """Deserialize a plan. Returns the engine and the runtime, which has to outlive it.

    module: TensorRT's or TensorRT-RTX's Python module
    plugins: plugin libraries with getCreators, loaded first where the plan wants one
    Raises EngineError with TensorRT's own words, what the plan was built for, and what to do.
    """
    logger = _logger(module)
    logger.errors.clear()
    runtime = _runtime(module, logger)
    if entry.target.get("version_compatible"):
        # Such a plan carries host code; its bytes are the ones that the manifest names.
        runtime.engine_host_code_allowed = True
    if entry.target.get("plugin") not in (None, "serialized"):
        _load_plugins(module, runtime, logger, entry, plugins)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        said = logged(module)
        remedy = next((text for word, text in _REMEDIES if word in said.lower()), _REMEDY)
        built = ", ".join(f"{key} {value}" for key, value in entry.target.items() if value) or "an unknown target"
        raise EngineError(f"TensorRT {module.__version__} refuses {path}: {said}. It was built for {built}. {remedy}")
    return engine, runtime


def _runtime(module: Any, logger: Any) -> "trt.Runtime":
    try:
        runtime: trt.Runtime = module.Runtime(logger)
    except (TypeError, RuntimeError) as error:  # the binding was given nothing, and says only that
        raise EngineError(
            f"TensorRT {module.__version__} does not start: {logged(module)}. It wants an NVIDIA driver for its CUDA "
            "version: install or update the driver; `tokfilter doctor` shows it."
        ) from error
    return runtime


def _load_plugins(module: Any, runtime: Any, logger: Any, entry: Entry, plugins: Sequence[Path]) -> None:
    registry = runtime.get_plugin_registry()
    if registry.get_creator(NAME, VERSION, DOMAIN) is not None:  # loading it twice fails
        return
    logger.errors.clear()  # it logs a plugin that is not there yet as an error
    if not plugins:
        raise EngineError(
            f"{entry.path} wants the plugin library {entry.target['plugin']}, and manifest.json lists none. {_REMEDY}"
        )
    for plugin in plugins:
        if registry.load_library(str(plugin)) is None:
            raise EngineError(
                f"TensorRT {module.__version__} cannot load the plugin library {plugin}: {logged(module)}. "
                "Build it for this machine: tokfilter plugin build, then tokfilter engine."
            )


def context_from_engine(module: Any, engine: Any, captured: bool) -> "trt.IExecutionContext | None":
    """A new context, None where TensorRT has no memory for it.

    captured: whether a CUDA graph is to be captured. TensorRT-RTX runs fallback kernels until those of a shape are
        compiled in the background, and a graph would keep them (pytorch/TensorRT, pull request 4187): then it waits.
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


def capturable(context: Any, stream: int) -> bool:
    """Whether a CUDA graph can be captured of a context with its shapes set. Only TensorRT-RTX has some that refuse."""
    asked = getattr(context, "is_stream_capturable", None)
    return asked is None or bool(asked(stream))


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
    """The narrowest profile that serves a batch at k tokens. Raises EngineError that says which ranges there are."""
    serving = [p for p in profiles if p.serves(batch, k)]
    if not serving:
        raise EngineError(
            f"this plan serves {'; '.join(_ranges(p) for p in profiles)}; got a batch of {batch} at {k} tokens. "
            "Split the batch, or export with other ranges."
        )
    return min(serving, key=lambda p: (p.batch[1] - p.batch[0], p.budget[1] - p.budget[0] if p.budget else 0))


def _ranges(profile: Profile) -> str:
    budget = "" if profile.budget is None else f" at {profile.budget[0]} to {profile.budget[1]} tokens"
    return f"batches of {profile.batch[0]} to {profile.batch[1]}{budget}"


@cache
def _logger(module: Any) -> Any:
    """A logger that keeps what goes wrong, because calls return only None. TensorRT takes one per process."""

    class Kept(module.ILogger):  # type: ignore[misc]  # the base class exists only where TensorRT is installed
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_ERRORS)

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Kept()


def logged(module: Any) -> str:
    """What TensorRT has logged as errors since it was last asked."""
    errors = _logger(module).errors
    # A copy: sessions in other threads may be logging.
    said = " / ".join(message.strip().rstrip(".") for message in tuple(errors)) or "no reason given"
    errors.clear()
    return said
