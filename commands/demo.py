"""tokfilter demo."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.commands.json_output import json_option, print_json
from tokfilter.commands.progress import command_line, progress_bar

if TYPE_CHECKING:
    from tokfilter.benchmarks.demo import Demo


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="demo", show_default=True, help="Output folder."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of data and training.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of ONNX Runtime.")
@json_option
def demo(output: Path, seed: int, threads: int, as_json: bool) -> None:
    """Run every step on handwritten digits in photographs: training, export, benchmark, report. Minutes on a CPU.

    After an interruption, run it again: it resumes.
    """
    from tokfilter.benchmarks.demo import run_demo

    with progress_bar() as progress:
        done = run_demo(output, seed, threads, progress, command_line())
    if as_json:
        print_json("demo", asdict(done))
    else:
        _print(done)


def _print(done: "Demo") -> None:
    from rich.table import Table

    from tokfilter.commands.tables import print_comparison
    from tokfilter.commands.terminal import Terminal

    console = Terminal()
    table = Table("method", "tokens", "top-1 %", "GMACs", box=None, padding=(0, 2, 0, 0), title="accuracy")
    for row in done.accuracy["rows"]:
        table.add_row(row["method"], str(row["tokens"]), f"{row['mean']:.1%}"[:-1], f"{row['macs'] / 1e9:.4f}")
    console.print(table)
    print_comparison(done.bench)
    console.print(f"\n{done.real_size['model']['architecture']} with random weights: speed only", highlight=False)
    print_comparison(done.real_size)
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in done.seconds.items())
    console.print(f"\n{times}", highlight=False)
    console.print(f"Report: {done.report} ; model: {done.folder / 'model.pt'} ; graphs: {done.folder / 'export'}")
    if done.no_page is None:
        serve = f"python -m http.server --directory {done.folder / 'page'} 8000"
        click.echo(f"In the browser: {serve} , then open http://localhost:8000")
    else:
        click.echo(f"No page for the browser: {done.no_page}")
