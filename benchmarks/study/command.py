"""``python -m tokfilter.benchmarks study``."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from tokfilter.benchmarks.options import command_line, data_option, json_option, numbers_from_text
from tokfilter.benchmarks.records.paths import WHEELS
from tokfilter.benchmarks.study.accuracy import REDUCERS, STUDY, WITH_LONGER, run
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig
from tokfilter.benchmarks.study.methods import FILTER
from tokfilter.benchmarks.study.reproduction import check_published, lines_of_check, published_study
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, OBJECTS, TASKS
from tokfilter.runtime.measure.record import write_json

__all__ = ["main"]

_DEFAULT: Final = f"{DIGITS.name},{FASHION.name}"
"""The third data set needs wheels, and takes longer."""

_SPEED: Final = SpeedConfig(rounds=5, seconds=0.08)


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@data_option(TASKS, _DEFAULT)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    default=WHEELS,
    help=f"Folder of the wheels that {OBJECTS.name} is made of. Default: build/wheels",
)
@click.option("--seeds", callback=numbers_from_text, default="0,1,2", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Seeds at once, a core each.")
@click.option(
    "--ablation-seeds", callback=numbers_from_text, help="Seeds that also run the ablations. Default: all; '' is none."
)
@click.option(
    "--longer", is_flag=True, help="Also fine-tune the filter and three baselines for four times as many steps."
)
@click.option("--reducers", is_flag=True, help="Only the two tables of reducers: no ablations.")
@click.option("--speed-only", is_flag=True, help="Train nothing: measure images per second beside rows that are there.")
@click.option("--speed/--no-speed", default=True, help="Measure images per second of every row.  [default: speed]")
@click.option(
    "--check",
    "published",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="Train the filter of one seed again (--seeds, default: the first) and compare it with this published study.",
)
@json_option
def main(
    work: Path,
    data: list[str],
    wheels: Path,
    seeds: list[int],
    jobs: int,
    ablation_seeds: list[int] | None,
    longer: bool,
    reducers: bool,
    speed_only: bool,
    speed: bool,
    published: Path | None,
    as_json: bool,
) -> None:
    """Measure accuracy of the filter, the other reducers, baselines and ablations.

    Data and models are kept in the folder WORK, results in WORK/<data set>.json. Finished parts are kept: an
    interrupted study continues, and more seeds or rows can be added.
    """
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    if reducers and (longer or ablation_seeds is not None):
        raise click.UsageError("--reducers leaves out what --longer and --ablation-seeds add: give one or the other")
    if published is not None:
        _check(work, published, seeds, as_json)
        return
    methods = REDUCERS if reducers else WITH_LONGER if longer else STUDY
    documents = run(
        work,
        [replace(TASKS[name], wheels=wheels) for name in data],
        seeds,
        jobs,
        methods,
        seeds if ablation_seeds is None else ablation_seeds,
        _SPEED if speed or speed_only else None,
        not speed_only,
        lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(documents, indent=2))
        return
    for name, document in documents.items():
        for row in document["rows"]:
            click.echo(f"{name}: {row['method']:32} {row['tokens']:3} tokens  top-1 {row['mean']:.1%}")


def _check(work: Path, published: Path, seeds: list[int], as_json: bool) -> None:
    """Train one seed again and print whether it agrees with a published study. The exit code is 1 if it does not."""
    given = click.get_current_context().get_parameter_source("seeds") is ParameterSource.COMMANDLINE
    if given and len(seeds) > 1:
        raise click.UsageError("--check trains one seed; give one, such as --seeds 0")
    document, task = published_study(published)
    seed = seeds[0] if given else document["settings"]["seeds"][0]
    retrained = run(work / "check", [task], [seed], methods=[FILTER], log=lambda line: click.echo(line, err=True))
    check = check_published(document, retrained[task.name], command_line())
    write_json(work / f"{task.name}-check.json", check)
    click.echo(json.dumps(check, indent=2) if as_json else "\n".join(lines_of_check(check)))
    if not check["inside"]:
        raise SystemExit(1)
