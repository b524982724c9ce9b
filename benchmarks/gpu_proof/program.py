"""``python -m tokfilter.benchmarks gpu-proof``: build, compare and measure on this machine's GPU, in minutes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.artifacts.files import existing_file
from tokfilter.benchmarks.gpu_proof.document import Document
from tokfilter.benchmarks.gpu_proof.runner import run_steps
from tokfilter.benchmarks.gpu_proof.settings import Settings, batches_from_text, models_from_text
from tokfilter.benchmarks.gpu_proof.steps import steps_from_text
from tokfilter.benchmarks.options import command_line, output_option
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.benchmarks.records.proof_tables import proof_tables

__all__ = ["main"]

_VARIABLE: Final = "TOKFILTER_TENSORRT8"
_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), default=8.0, show_default=True, help="For all steps together."
)
@click.option(
    "--steps", "text", default="", help="Names with commas between, in this order.  [default: all, see --list]"
)
@click.option("--list", "listed", is_flag=True, help="Print the steps with their time limits.")
@click.option("--dry-run", is_flag=True, help="Stop each step where it needs the device first, and name that point.")
@click.option(
    "--tensorrt-python",
    "tensorrt8",
    type=_PATH,
    envvar=_VARIABLE,
    help=f"Folder of a TensorRT with a Python of its own: lib/, site/, python/ (also {_VARIABLE}). "
    "[default: TensorRT of this Python]",
)
@click.option("--plugin", type=_PATH, help="A built plugin library.  [default: build it]")
@click.option("--library", type=_PATH, help="A built C++ library, libtokfilter.so.  [default: build it]")
@click.option(
    "--headers", type=_PATH, help="TensorRT's headers, to build both.  [default: TENSORRT_INCLUDE_DIR, JetPack's]"
)
@click.option(
    "--work",
    type=_PATH,
    default=ROOT / "build" / "gpu-proof",
    help="Graphs, engines, logs.  [default: build/gpu-proof]",
)
@click.option("--builders", type=click.IntRange(1, 64), default=4, show_default=True, help="Engines built at a time.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0.01),
    default=0.6,
    show_default=True,
    help="Measured seconds per row.",
)
@click.option("--models", "names", default="", help="Names with commas between: deit_small, vit_base.  [default: both]")
@click.option("--batches", default="", help="Batch sizes with commas between.  [default: 1,8,32,128]")
@output_option("gpu-proof.json")
def main(text: str, listed: bool, output: Path, **params: Any) -> None:
    """Run every claim about a GPU on this one: build, compare with golden tensors, then measure.

    The most valuable steps come first, each bounded in time, and the document is rewritten after every result: a stop
    at any minute leaves what was known. Ends with status 1 if a comparison or a step failed.
    """
    steps = steps_from_text(text)
    if listed:
        for step in steps:
            click.echo(f"{step.name:20} {step.limit_s:5.0f} s  {step.title} {' '.join(step.arguments)}".rstrip())
        return
    settings = _settings(**params)
    document = Document(output, settings, command_line())
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        run_steps(steps, settings, document, lambda line: click.echo(line, err=True))
    finally:
        _report(document)
    if document.wrong:
        sys.exit(1)


def _settings(**params: Any) -> Settings:
    for name, option in (("plugin", "--plugin"), ("library", "--library")):
        if params[name] is not None:
            params[name] = existing_file(params[name], option).resolve()
    params["models"] = models_from_text(params.pop("names"))
    params["batches"] = batches_from_text(params["batches"])
    if params["headers"] is None and os.environ.get("TENSORRT_INCLUDE_DIR"):
        params["headers"] = Path(os.environ["TENSORRT_INCLUDE_DIR"])
    params["work"] = params["work"].resolve()
    settings = Settings(**params)
    settings.tensorrt  # noqa: B018  (raises DataError for a folder that is none)
    return settings


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _report(document: Document) -> None:
    for title, table in proof_tables(document.content):
        click.echo(f"\n{title}\n\n{table}")
    for line in document.wrong:
        click.echo(f"wrong: {line}", err=True)
    click.echo(f"wrote {document.path}", err=True)
