"""The command line. Each verb is one click command in ``commands``: parse, call one function, print one result."""

import sys

import click

from tokfilter import __version__
from tokfilter.commands.group import LazyCommand, LazyGroup

__all__ = ["cli", "main"]

_VERBS = {
    "demo": "the whole pipeline on real data, from images to a report",
    "train": "backbone, labels, filter and fine-tuning: images in, model.pt out",
    "label": "delta loss of every token of every image",
    "eval": "accuracy of a bundle at several budgets",
    "predict": "class, probability and a picture of the kept tokens for one image",
    "export": "ONNX graphs, TensorRT engines and a manifest from model.pt",
    "fuse": "turn gather-after-top-k in a foreign ONNX graph into TokenSelect",
    "inline": "an ONNX file with TokenSelect or model-local functions in standard operators only",
    "inspect": "contents of a bundle, a graph or an export directory",
    "verify": "files against the manifest, engines against torch's golden outputs",
    "engine": "TensorRT engines for this machine from an export's graphs, without torch",
    "bench": "latency and throughput of full against filtered token counts",
    "tune": "choose the budget for a latency, a speed-up or a drop of accuracy",
    "triton-repo": "a model repository for Triton Inference Server from an export directory",
    "deepstream": "a classifier for DeepStream's nvinfer from an export directory",
    "pack": "an export for a machine without torch: graphs, sources, benchmark, in one file",
    "serve": "an HTTP service that classifies images with an export directory",
    "page": "a web page that runs an export in the browser, with a slider for the budget",
    "report": "a self-contained page from accuracy and benchmark results",
    "plugin": "build the TensorRT plugin, or print its path",
    "doctor": "what works on this machine, what is missing, how to install it",
}
"""Verbs with their one-line help, in the order of use. Their modules load when they are called."""

_MODULES = {"eval": "evaluate", "triton-repo": "triton_repo"}

_EXTRAS = {
    "demo": "export,report",
    **dict.fromkeys(("train", "label", "eval"), "train"),
    **dict.fromkeys(("export", "fuse", "inline", "deepstream"), "export"),
    "triton-repo": "triton",
    "report": "report",
    "serve": "service",
}
"""Verbs that need more than their first missing package tells. The others run with `runtime`, or say what they need."""


def _lazy(verb: str) -> LazyCommand:
    name = _MODULES.get(verb, verb)
    return LazyCommand(f"tokfilter.commands.{name}:{name}", _VERBS[verb], extra=_EXTRAS.get(verb))


@click.group(
    cls=LazyGroup,
    lazy={verb: _lazy(verb) for verb in _VERBS},
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
