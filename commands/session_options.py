"""Options that select an engine, shared by `bench`, `tune` and `verify`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tokfilter.runtime.sessions import SessionOptions

__all__ = ["batches_from_text", "session_options", "session_options_from"]

_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; ``session_options_from`` reads them."""
    for option in (
        click.option(
            "--bundle", type=click.Path(path_type=Path), help="model.pt for PyTorch.  [default: beside the export]"
        ),
        click.option("--torch-compile", type=click.Choice(_MODES), help="Mode of torch.compile (PyTorch)."),
        click.option(
            "--model-cache/--no-model-cache", default=True, help="Keep compiled models in the user's cache (OpenVINO)."
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
            type=click.Choice(["fp32", "fp16", "bf16", "int8", "int8-bf16"]),
            default="fp32",
            show_default=True,
            help="Precision of the exported model. OpenVINO computes the fp32 model in bf16 or fp16 too, and the other "
            "layers of the int8 model in fp32 (int8) or bf16 (int8-bf16).",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["onnx", "openvino", "tensorrt", "tensorrt-rtx", "torch"]),
            default="onnx",
            show_default=True,
            help="Engine that runs the model files; torch runs the bundle that was exported.",
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
        if given["runtime"] != "torch" and not params.get("against"):
            raise click.UsageError("--bundle is model.pt for PyTorch: add --runtime torch.")
        given["bundle"] = str(given["bundle"])
    return SessionOptions(**given | {"torch_compile": given["torch_compile"] or False})


def batches_from_text(option: str, text: str) -> list[int]:
    """Batch sizes separated by commas. Raises DataError with the name of the option."""
    from tokfilter.errors import DataError

    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"{option} requires whole numbers separated by commas, got {text!r}.") from None
    if min(batches) < 1:
        raise DataError(f"{option} requires sizes of 1 or more, got {text!r}.")
    return batches
