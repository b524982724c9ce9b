"""tokfilter bench."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.budget import KEEP_HELP

if TYPE_CHECKING:
    from tokfilter.runtime.sessions import SessionOptions

_SCENARIOS = ("single-stream", "multi-stream", "offline", "server")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which engine runs, shared by `bench` and `tune`."""
    for option in (
        click.option("--backend", type=click.Choice(["pycuda", "cuda-python"]), help="CUDA binding of TensorRT."),
        click.option("--cuda-graph", is_flag=True, help="Replay a captured CUDA graph (TensorRT, PyTorch on a GPU)."),
        click.option(
            "--huge-pages/--no-huge-pages", default=True, help="Huge pages for weights (ONNX Runtime, Linux)."
        ),
        click.option("--spin/--no-spin", "spinning", default=True, help="Let idle threads spin (ONNX Runtime)."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of a CPU engine; default: its own choice."),
        click.option(
            "--provider",
            type=click.Choice(["cpu", "cuda", "tensorrt", "tensorrt-rtx"]),
            default="cpu",
            show_default=True,
            help="ONNX Runtime's execution provider; cpu or cuda for PyTorch.",
        ),
        click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", help="As exported."),
        click.option(
            "--runtime",
            type=click.Choice(["onnx", "tensorrt", "tensorrt-rtx"]),
            default="onnx",
            show_default=True,
            help="What runs the model files.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--batch", default="1,8,32", show_default=True, help="Batch sizes, with commas between.")
@click.option(
    "--keep", default="1.0,0.7,0.5,0.35", show_default=True, help=f"Budgets with commas between: {KEEP_HELP}."
)
@engine_options
@click.option("--bundle", type=click.Path(path_type=Path), help="Measure PyTorch on this model.pt instead.")
@click.option("--duration", type=float, default=3.0, show_default=True, help="Measured seconds per row.")
@click.option("--warm-up", type=float, default=0.5, show_default=True, help="Seconds per row before, untimed.")
@click.option("--quick", is_flag=True, help="A first look: a third of the time.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap and of arrivals.")
@click.option("--scenario", type=click.Choice(_SCENARIOS), multiple=True, help="Run MLPerf's scenarios instead.")
@click.option("--loadgen", is_flag=True, help="Let MLCommons' load generator drive the scenarios.")
@click.option("--streams", type=click.IntRange(min=1), default=1, show_default=True, help="Sessions at once (offline).")
@click.option("--qps", type=float, default=10.0, show_default=True, help="Arrivals per second (server).")
@click.option("--latency-bound", type=float, default=100.0, show_default=True, help="Milliseconds at p99 (server).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file.  [default: DIRECTORY/bench.json]")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a self-contained page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench(
    directory: Path, output: Path | None, html: Path | None, as_json: bool, scenario: tuple[str, ...], **asked: Any
) -> None:
    """Measure an export DIRECTORY: full against filtered token counts, interleaved, after comparing outputs.

    Each engine runs in a process of its own. The table stands on standard output, the JSON file beside the models.
    """
    from tokfilter.runtime.measure.record import write_json

    output = output or directory / ("scenario.json" if scenario else "bench.json")
    if html is not None and (scenario or html.with_suffix(".json") == output):
        raise click.UsageError(
            "--html shows a comparison, no scenario, and writes a JSON file of its own name beside it."
        )
    document = _scenarios(directory, scenario, asked) if scenario else _comparison(directory, asked)
    write_json(output, document)
    if html is not None:
        from tokfilter.benchmarks.report.render import render_report

        render_report(None, document, [], html)
    if as_json:
        import json

        click.echo(json.dumps(document, indent=2))
    else:
        from tokfilter.commands.tables import print_comparison, print_scenarios

        (print_scenarios if scenario else print_comparison)(document)


def options_from(asked: dict[str, Any]) -> "SessionOptions":
    """The engine's part of what was asked on the command line."""
    from dataclasses import fields

    from tokfilter.runtime.sessions import SessionOptions

    return SessionOptions(**{f.name: asked[f.name] for f in fields(SessionOptions)})


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("start", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def command_line() -> str:
    """What was typed, for the record."""
    import shlex
    import sys

    return shlex.join(["tokfilter", *sys.argv[1:]])


def _comparison(directory: Path, asked: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.runtime.comparison.compare import QUICK, Plan, compare

    plan = QUICK if asked["quick"] else Plan(asked["duration"], asked["warm_up"])
    plan = replace(plan, seed=asked["seed"])
    with progress_bar() as progress:
        return compare(
            directory,
            _batches(asked["batch"]),
            keeps_from_text([asked["keep"]]),
            options_from(asked),
            plan,
            asked["bundle"],
            progress,
            command_line(),
        )


def _scenarios(directory: Path, names: tuple[str, ...], asked: dict[str, Any]) -> dict[str, Any]:
    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.runtime.measure.scenarios import Setting, scenarios

    setting = Setting(
        asked["duration"],
        asked["warm_up"],
        asked["loadgen"],
        asked["streams"],
        max(_batches(asked["batch"])),
        asked["qps"],
        asked["latency_bound"],
        asked["seed"],
    )
    with progress_bar() as progress:
        return scenarios(
            directory,
            names,
            keeps_from_text([asked["keep"]]),
            options_from(asked),
            setting,
            command_line(),
            lambda what: progress(what, 0.0),
        )


def _batches(text: str) -> list[int]:
    from tokfilter.errors import DataError

    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"--batch wants whole numbers with commas between, got {text!r}.") from None
    if min(batches) < 1:
        raise DataError(f"--batch wants sizes of 1 or more, got {text!r}.")
    return batches
