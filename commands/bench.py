"""tokfilter bench."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.group import needs
from tokfilter.commands.json_output import echo_json
from tokfilter.commands.progress import command_line, progress_bar
from tokfilter.commands.session_options import batches_from_text, bounded_run, engines_from, engines_option

_SCENARIOS = ("single-stream", "multi-stream", "offline", "server")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--batch", default="1,8,32", show_default=True, help="Batch sizes, separated by commas.")
@click.option(
    "--keep", default="1.0,0.7,0.5,0.35", show_default=True, help=f"Budgets, separated by commas: {KEEP_HELP}."
)
@engines_option
@click.option("--against", help="Engines to compare with, separated by commas: torch-eager, torch-compile, onnx-naive.")
@click.option("--duration", type=float, default=3.0, show_default=True, help="Measured seconds per row.")
@click.option("--warm-up", type=float, default=0.5, show_default=True, help="Untimed seconds per row before that.")
@click.option("--quick", is_flag=True, help="A third of the time, with wider intervals.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap and of the arrivals.")
@click.option("--scenario", type=click.Choice(_SCENARIOS), multiple=True, help="Run MLPerf's scenarios instead.")
@click.option("--loadgen", is_flag=True, help="Issue the scenarios' queries with MLCommons' load generator.")
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    help="Parallel sessions, or streams of OpenVINO (offline).  [default: 1; OpenVINO's own choice]",
)
@click.option("--qps", type=float, default=10.0, show_default=True, help="Mean arrivals per second (server).")
@click.option(
    "--latency-bound", type=float, default=100.0, show_default=True, help="Bound of p99 in milliseconds (server)."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file.  [default: DIRECTORY/bench.json]")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench(
    directory: Path, output: Path | None, html: Path | None, as_json: bool, scenario: tuple[str, ...], **params: Any
) -> None:
    """Measure latency and throughput of an export DIRECTORY: full against filtered token counts.

    Engines are measured in interleaved rounds, each in a process of its own, after their outputs have been compared
    with the golden tensors. Prints a table and writes a JSON file beside the models.
    """
    from tokfilter.runtime.measure.record import write_json

    output = output or directory / ("scenario.json" if scenario else "bench.json")
    if html is not None and (scenario or html.with_suffix(".json") == output):
        raise click.UsageError(
            "--html shows a comparison, not a scenario, and writes a JSON file of the same name beside it: "
            "choose another name."
        )
    if scenario and params["against"]:
        raise click.UsageError("--against compares latency in rounds: leave --scenario out.")
    if html is not None:
        needs("report")
        from tokfilter.benchmarks.report.render import (
            render_report,  # a missing package is found before the first round
        )
    document = _scenarios(directory, scenario, params) if scenario else _comparison(directory, params)
    write_json(output, document)
    if html is not None:
        render_report(None, document, [], html)
    if as_json:
        echo_json(document)
    else:
        from tokfilter.commands.tables import print_comparison, print_scenarios

        (print_scenarios if scenario else print_comparison)(document)


def _comparison(directory: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.runtime.comparison.compare import compare
    from tokfilter.runtime.comparison.rounds import QUICK, BenchConfig

    config = QUICK if params["quick"] else BenchConfig.of_duration(params["duration"], params["warm_up"], 0.15)
    first, *further = engines = engines_from(params)
    batches = batches_from_text("--batch", params["batch"])
    with progress_bar() as progress, bounded_run(directory, engines, max(batches), bool(params["against"])):
        return compare(
            directory,
            batches,
            keeps_from_text([params["keep"]]),
            first,
            replace(config, seed=params["seed"]),
            progress,
            command_line(),
            [name.strip() for name in (params["against"] or "").split(",") if name.strip()],
            further,
        )


def _scenarios(directory: Path, names: tuple[str, ...], params: Mapping[str, Any]) -> dict[str, Any]:
    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.runtime.comparison.scenarios import run_scenarios
    from tokfilter.runtime.measure.scenario import ScenarioConfig

    options, *others = engines_from(params)
    if others:
        raise click.UsageError("--scenario runs one engine: give one --runtime.")
    config = ScenarioConfig(
        params["duration"],
        params["warm_up"],
        params["loadgen"],
        params["streams"] or 1,
        max(batches_from_text("--batch", params["batch"])),
        params["qps"],
        params["latency_bound"],
        params["seed"],
    )
    with progress_bar() as progress, bounded_run(directory, [options], config.batch * config.streams):
        return run_scenarios(
            directory,
            names,
            keeps_from_text([params["keep"]]),
            options,
            config,
            command_line(),
            lambda what: progress(what, 0.0),
        )
