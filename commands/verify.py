"""tokfilter verify."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.bench import engine_options, options_from

if TYPE_CHECKING:
    from tokfilter.runtime.verification import Verdict


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(min=1), multiple=True, help="Batch size; give it several times.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(directory: Path, batch: tuple[int, ...], as_json: bool, **asked: Any) -> None:
    """Hold the files of an export DIRECTORY against its manifest, and its models against torch's golden outputs.

    Every model of --runtime and --precision runs, those made for one budget too. Exit code 3 when an output differs by
    more than its precision explains.
    """
    from tokfilter.runtime.verification import checked_files, verdicts

    files = checked_files(directory).files
    found = verdicts(directory, options_from(asked), batch)
    if as_json:
        click.echo(json.dumps([asdict(verdict) for verdict in found], indent=2))
        return
    click.echo(f"{len(files)} files are the ones that the manifest names")
    for verdict in found:
        click.echo(_line(verdict))


def _line(verdict: "Verdict") -> str:
    parts = [f"{verdict.path}, batch {verdict.batch}, {verdict.tokens} tokens: {verdict.compared} as torch's"]
    if verdict.largest_difference is not None:
        parts.append(f"largest difference {verdict.largest_difference:.1e} of at most {verdict.tolerance:g}")
    if verdict.same_indices is not None:
        parts.append(f"{verdict.same_indices:.1%} of the kept tokens in common")
    return "; ".join(parts)
