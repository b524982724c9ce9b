"""``python -m tokfilter.benchmarks study``."""

import json
from pathlib import Path
from typing import Final

import click

from tokfilter.benchmarks.options import json_option, numbers_from_text
from tokfilter.benchmarks.study.accuracy import REDUCERS, STUDY, WITH_LONGER, run
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig
from tokfilter.benchmarks.study.tasks import TASKS

__all__ = ["main"]

_SPEED: Final = SpeedConfig(rounds=5, seconds=0.08)


def _data_sets(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = value.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        raise click.BadParameter(f"no data set {unknown[0]!r}; there are {', '.join(TASKS)}")
    return names


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", callback=_data_sets, default=",".join(TASKS), show_default=True, help="Data sets.")
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
@json_option
def main(
    work: Path,
    data: list[str],
    seeds: list[int],
    jobs: int,
    ablation_seeds: list[int] | None,
    longer: bool,
    reducers: bool,
    speed_only: bool,
    speed: bool,
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
    methods = REDUCERS if reducers else WITH_LONGER if longer else STUDY
    documents = run(
        work,
        [TASKS[name] for name in data],
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
