"""Options that select an engine, shared by `bench`, `tune` and `verify`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tokfilter.runtime.sessions import SessionOptions

__all__ = ["session_options", "session_options_from"]


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; ``session_options_from`` reads them."""
    for option in (
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
            type=click.Choice(["fp32", "fp16", "bf16"]),
            default="fp32",
            show_default=True,
            help="Precision of the exported model.",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["onnx", "tensorrt", "tensorrt-rtx"]),
            default="onnx",
            show_default=True,
            help="Engine that runs the model files.",
        ),
    ):
        command = option(command)
    return command


def session_options_from(params: Mapping[str, Any]) -> "SessionOptions":
    """The engine's options among the parameters of a command."""
    from dataclasses import fields

    from tokfilter.runtime.sessions import SessionOptions

    return SessionOptions(**{f.name: params[f.name] for f in fields(SessionOptions) if f.name in params})
