"""Options that select an engine, shared by `bench`, `tune` and `verify`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.limits import MAX_BATCH

if TYPE_CHECKING:
    from tokfilter.runtime.sessions import SessionOptions

    _ListType = click.ParamType[list[str]]
else:
    _ListType = click.ParamType

__all__ = [
    "BATCH",
    "PRECISIONS",
    "batches_from_text",
    "bounded_run",
    "engines_from",
    "engines_option",
    "session_options",
    "session_options_from",
]

BATCH = click.IntRange(1, MAX_BATCH)
"""Images of a batch."""

_RUNTIMES = ("onnx", "openvino", "tensorrt", "tensorrt-rtx", "torch")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-bf16", "fp8")
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class _Names(_ListType):
    """One or more of several names, with commas between."""

    name = "names"

    def __init__(self, names: Sequence[str]) -> None:
        self._one = click.Choice(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        parts = value if isinstance(value, list) else str(value).split(",")
        return [self._one.convert(part.strip(), param, ctx) for part in parts]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self._one.choices)}][,...]"


def engines_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``session_options`` for one or more engines: names with commas; ``engines_from`` reads them."""
    return _with_options(command, _Names(_RUNTIMES), _Names(PRECISIONS), " Several with commas, compared in turn.")


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; ``session_options_from`` reads them."""
    return _with_options(command, click.Choice(_RUNTIMES), click.Choice(PRECISIONS))


def _with_options(
    command: Callable[..., Any], runtimes: "click.ParamType[Any]", precisions: "click.ParamType[Any]", several: str = ""
) -> Callable[..., Any]:
    for option in (
        click.option(
            "--bundle", type=click.Path(path_type=Path), help="model.pt for PyTorch.  [default: beside the export]"
        ),
        click.option("--torch-compile", type=click.Choice(_MODES), help="Mode of torch.compile (PyTorch)."),
        click.option(
            "--model-cache/--no-model-cache", default=True, help="Keep compiled models in the user's cache (OpenVINO)."
        ),
        click.option(
            "--fixed-shapes",
            is_flag=True,
            help="Compile for each batch and budget: faster, the first call of each slower (OpenVINO).",
        ),
        click.option(
            "--hint",
            type=click.Choice(["latency", "throughput"]),
            default="latency",
            show_default=True,
            help="What OpenVINO compiles for.",
        ),
        click.option("--backend", type=click.Choice(["pycuda", "cuda-python"]), help="CUDA binding of TensorRT."),
        click.option("--device", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the GPU."),
        click.option("--cuda-graph", is_flag=True, help="Replay captured CUDA graphs (on a GPU)."),
        click.option(
            "--huge-pages/--no-huge-pages", default=True, help="Huge pages for weights (ONNX Runtime, Linux)."
        ),
        click.option("--spin/--no-spin", "spinning", default=True, help="Busy waiting of idle threads (ONNX Runtime)."),
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads of a CPU engine.  [default: chosen by the engine]"
        ),
        click.option(
            "--provider",
            type=click.Choice(["cpu", "cuda", "tensorrt", "tensorrt-rtx"]),
            default="cpu",
            show_default=True,
            help="Execution provider of ONNX Runtime; cpu or cuda for PyTorch.",
        ),
        click.option(
            "--precision",
            type=precisions,
            default="fp32",
            show_default=True,
            help="Precision of the exported model. OpenVINO computes the fp32 model in bf16 or fp16 too, and the other "
            "layers of the int8 model in fp32 (int8) or bf16 (int8-bf16).",
        ),
        click.option(
            "--runtime",
            type=runtimes,
            default="onnx",
            show_default=True,
            help=f"Engine that runs the model files; torch runs the bundle that was exported.{several}",
        ),
    ):
        command = option(command)
    return command


def session_options_from(params: Mapping[str, Any]) -> "SessionOptions":
    """The engine's options among the parameters of a command."""
    from dataclasses import fields

    from tokfilter.runtime.sessions import SessionOptions

    given = {f.name: params[f.name] for f in fields(SessionOptions) if f.name in params}
    if given["bundle"] is not None:
        if given["runtime"] != "torch" and not params.get("against") and not params.get("images"):
            raise click.UsageError("--bundle is model.pt for PyTorch: add --runtime torch.")
        given["bundle"] = str(given["bundle"])
    return SessionOptions(**given | {"torch_compile": given["torch_compile"] or False})


def engines_from(params: Mapping[str, Any]) -> "list[SessionOptions]":
    """The engines among the parameters of a command: one precision for all, or one for each runtime."""
    runtimes, precisions = params["runtime"], params["precision"]
    if len(precisions) not in (1, len(runtimes)):
        raise click.UsageError(
            f"--precision takes one precision, or one for each of the {len(runtimes)} runtimes, got {len(precisions)}."
        )
    pairs = zip(runtimes, precisions * len(runtimes) if len(precisions) == 1 else precisions, strict=True)
    engines = []
    for name, precision in pairs:
        bundle = params["bundle"] if name == "torch" or "torch" not in runtimes else None
        engines.append(session_options_from({**params, "runtime": name, "precision": precision, "bundle": bundle}))
    return engines


def bounded_run(
    source: Path, engines: "Sequence[SessionOptions]", images: int, others: bool = False, more: int = 0
) -> AbstractContextManager[None]:
    """A bound on memory while engines on the CPU run an export directory (``runtime.memory_bound``), else none.

    images: of the largest batch, of all streams together
    others: whether something else runs too, such as PyTorch
    more: bytes that the process may take besides
    """
    from tokfilter.runtime.memory_bound import bounded_memory

    on_cpu = all(engine.runtime in ("onnx", "openvino") and engine.provider == "cpu" for engine in engines)
    return bounded_memory(source, images, more) if on_cpu and source.is_dir() and not others else nullcontext()


def batches_from_text(option: str, text: str) -> list[int]:
    """Batch sizes separated by commas. Raises DataError with the name of the option."""
    from tokfilter.errors import DataError

    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"{option} requires whole numbers separated by commas, got {text!r:.100}.") from None
    if not 1 <= min(batches) <= max(batches) <= MAX_BATCH:
        raise DataError(f"{option} requires sizes from 1 to {MAX_BATCH}, got {text!r:.100}.")
    return batches
