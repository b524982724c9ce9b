"""OpenVINO on the CPU: import, the precisions that this CPU has, compilation of a graph, and what it computes in.

A CPU with bf16 runs fp32 graphs in bf16 unless it is told not to, and one without may emulate it. So the type is always
given, refused where OpenVINO does not list it for this CPU, and read back from the compiled model.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from tokfilter.artifacts.extras import install_hint
from tokfilter.errors import EngineError, MissingDependencyError

__all__ = [
    "PRECISIONS",
    "Hint",
    "OpenVinoOptions",
    "check_capability",
    "check_compiled",
    "compile_properties",
    "graph_error",
    "imported_openvino",
]

PRECISIONS: Final[Mapping[str, tuple[str, str, str]]] = {
    "fp32": ("f32", "FP32", "fp32"),
    "fp16": ("f16", "FP16", "fp16"),
    "bf16": ("bf16", "BF16", "bf16"),
    "int8": ("f32", "INT8", "int8"),
    "int8-bf16": ("bf16", "BF16", "int8"),
}
"""Precision -> OpenVINO's type of floating-point layers, the capability of the CPU that it needs, row of TOLERANCES.

Every precision but the last two runs the fp32 graph; those run the int8 graph, whose other layers are in that type.
"""

_OLDEST: Final = (2025, 0)
_EIGHT_BITS: Final = ("u8", "i8", "int8")

Hint = Literal["latency", "throughput"]


@dataclass(frozen=True)
class OpenVinoOptions:
    """How a graph is compiled.

    precision: a key of PRECISIONS
    hint: one request at a time as fast as possible, or as many images per second as possible
    streams: requests that run at the same time; None leaves the number to the hint
    threads: of all streams together; None leaves the number to OpenVINO
    fixed_shapes: compile again for each batch and budget that is run, with every length known
    """

    precision: str = "fp32"
    hint: Hint = "latency"
    streams: int | None = None
    threads: int | None = None
    fixed_shapes: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EngineError(f"OpenVINO runs the precisions {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.hint not in ("latency", "throughput"):
            raise EngineError(f"the hint is latency or throughput, got {self.hint!r}.")
        for name, value in (("streams", self.streams), ("threads", self.threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise EngineError(f"OpenVINO requires 1 or more {name}, got {value!r}.")


def imported_openvino() -> Any:
    """The package. Raises MissingDependencyError where it is absent or older than 2025.0."""
    try:
        with _no_telemetry():
            import openvino
    except ImportError as error:
        raise MissingDependencyError(f"OpenVINO is not installed: {install_hint('openvino')}.") from error
    text = str(getattr(openvino, "__version__", ""))
    numbers = text.split("-")[0].split(".")
    release = tuple(int(number) for number in numbers[:2] if number.isdigit())
    if release < _OLDEST or not hasattr(openvino, "Core"):
        raise MissingDependencyError(
            f"OpenVINO {'.'.join(map(str, _OLDEST))} or later is needed, got {text or 'one without a version'}: "
            f"{install_hint('openvino')} --upgrade."
        )
    return openvino


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """OpenVINO does without its package openvino_telemetry where that is not installed; here it finds none.

    With it ``import openvino`` writes an identifier of the user to ~/intel and sends an event to its makers.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system takes it for "there is none"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def compile_properties(options: OpenVinoOptions) -> dict[str, Any]:
    """OpenVINO's properties for a compilation. The type is always among them."""
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[options.precision][0],
        "PERFORMANCE_HINT": options.hint.upper(),
    }
    if options.streams is not None:
        properties["NUM_STREAMS"] = options.streams
    if options.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def check_capability(core: Any, precision: str) -> None:
    """Raise EngineError where OpenVINO does not list the precision for this CPU: it would emulate or ignore it."""
    needed = PRECISIONS[precision][1]
    there = [str(name) for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")]
    if needed not in there:
        kinds = [name for name in ("FP32", "FP16", "BF16", "INT8") if name in there]
        raise EngineError(
            f"{precision} is not possible on this CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME')}): OpenVINO lists "
            f"{', '.join(kinds) or 'no precision'} for it. {_other_precision(precision, there)}"
        )


def _other_precision(precision: str, there: list[str]) -> str:
    if precision == "int8-bf16" and "INT8" in there:
        return "Choose --precision int8, whose other layers are in fp32."
    return "Choose --precision fp32."


def check_compiled(compiled: Any, precision: str, path: str) -> None:
    """Raise EngineError unless the compiled model computes in the type asked for."""
    wanted = PRECISIONS[precision][0]
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != wanted:
        raise EngineError(
            f"OpenVINO compiled {path} for {found}, and {precision} needs {wanted}: this CPU does not have it. "
            "Choose another --precision."
        )
    if precision.startswith("int8") and not _eight_bit_layers(compiled):
        raise EngineError(
            f"OpenVINO runs no layer of {path} in 8 bits, so int8 would be {wanted} in fact: the graph has no pairs of "
            "QuantizeLinear and DequantizeLinear that it knows, or this CPU has no 8-bit instructions. Export again "
            "with --precision int8, or choose --precision fp32."
        )


def _eight_bit_layers(compiled: Any) -> int:
    """Linear layers that run on 8-bit inputs, counted in the graph that is executed."""
    count = 0
    for node in compiled.get_runtime_model().get_ops():
        information = node.get_rt_info()
        if _text(information, "layerType") in ("FullyConnected", "MatMul"):
            count += _text(information, "runtimePrecision") in _EIGHT_BITS
    return count


def _text(information: Any, key: str) -> str:
    return str(information[key].astype(str)) if key in information else ""


def graph_error(path: str, error: Exception) -> EngineError:
    """The error for a graph that OpenVINO does not read or compile, with the remedy."""
    text = " ".join(str(error).split())
    if "tokfilter.TokenSelect" in text:
        return EngineError(
            f"OpenVINO reads standard operators only, and {path} has the node tokfilter::TokenSelect: export again, or "
            "write a plain graph with `tokfilter inline`."
        )
    reason = next((part.strip() for part in str(error).splitlines() if _says_why(part)), text)[:300].rstrip(".")
    return EngineError(f"OpenVINO cannot load {path}: {reason or type(error).__name__}.")


def _says_why(text: str) -> bool:
    return bool(text.strip()) and not text.startswith(("Exception from", "Check '"))
