"""The command line. Each verb is one click command in ``commands``: it parses, calls a function, prints the result."""

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from tokfilter import __version__
from tokfilter.errors import TokfilterError

__all__ = ["cli", "main"]

_VERBS = {
    "demo": "the whole path on real data, from images to a report",
    "train": "backbone, labels, filter and fine-tuning: images in, model.pt out",
    "label": "delta loss of every token of every image",
    "eval": "accuracy of a bundle at several budgets",
    "predict": "class, probability and a picture of the kept tokens for one image",
    "export": "ONNX graphs, TensorRT engines and a manifest from model.pt",
    "fuse": "turn gather-after-top-k in a foreign ONNX graph into TokenSelect",
    "inspect": "what is in a bundle, a graph or an export directory",
    "verify": "files against the manifest, engines against torch's golden outputs",
    "engine": "TensorRT engines for this machine from an export's graphs, without torch",
    "bench": "latency and throughput of full against filtered token counts",
    "tune": "choose the budget for a latency, a speed-up or a drop of accuracy",
    "triton-repo": "a model repository for Triton Inference Server from an export directory",
    "deepstream": "a classifier for DeepStream's nvinfer from an export directory",
    "pack": "an export for a machine without torch: graphs, sources, benchmark, in one file",
    "report": "a self-contained page from accuracy and benchmark results",
    "plugin": "build the TensorRT plugin, or say where it is",
    "doctor": "what this machine can do, what is missing, what brings it",
}
"""Verbs with their one-line help, in the order of a user's path. Their modules load when they are called."""

_MODULES = {"eval": "evaluate", "triton-repo": "triton_repo"}

_EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "PIL", "safetensors", "sklearn"), "train"),
    **dict.fromkeys(("onnx", "onnxscript", "onnx_ir"), "export"),
    **dict.fromkeys(("matplotlib", "jinja2", "jsonschema"), "report"),
    **dict.fromkeys(("tensorrt", "pycuda"), "trt"),
    **dict.fromkeys(("tritonclient", "google"), "triton"),
    "onnxruntime": "runtime",
    "tensorrt_rtx": "rtx",
}


class _Failure(click.ClickException):
    """A user's mistake, told in one sentence."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class _Verbs(click.Group):
    """Loads a verb's module when it is called, and turns errors into sentences and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"tokfilter.commands.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, _MODULES.get(cmd_name, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. Commands: {', '.join(_VERBS)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TokfilterError as error:
            raise _Failure(str(error), error.exit_code) from error
        except ModuleNotFoundError as error:
            _missing_package(error)
        except BrokenPipeError:
            raise  # click knows that nobody reads any more
        except OSError as error:
            raise _Failure(f"The system refuses: {error}", 1) from error


def _missing_package(error: ModuleNotFoundError) -> NoReturn:
    name = (error.name or "").split(".")[0]
    if name not in _EXTRAS:
        raise error
    raise _Failure(
        f"This command wants the package {name}, which is not installed: pip install 'tokfilter[{_EXTRAS[name]}]'",
        4,
    ) from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokfilter")
def cli() -> None:
    """Vision Transformers made fast where they are deployed.

    Predict each token's impact on the loss, drop the rest before the first attention block, export, measure.
    """


def main() -> None:
    """Entry point of the ``tokfilter`` command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
