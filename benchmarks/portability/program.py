"""``python -m tokfilter.benchmarks portability``: which runtimes and tools read the exported files as they are.

Each runtime is installed in an environment of its own, below ``--work``, with the versions of ``runtimes.py``; all of
them take about 5 GB. A small DeiT with random weights is exported once; each file is run at two batch sizes and, where
the budget is free, at three budgets, and compared with torch. A failure is recorded with the runtime's own sentence.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.benchmarks.options import command_line, json_option, output_option, publish
from tokfilter.benchmarks.portability.cases import MODEL, Case, write_cases
from tokfilter.benchmarks.portability.environments import install
from tokfilter.benchmarks.portability.probing import results_of_runtime
from tokfilter.benchmarks.portability.runtimes import RUNTIMES, Runtime
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.records.portability_tables import portability_table
from tokfilter.errors import MissingDependencyError
from tokfilter.runtime.measure.record import header, write_json

__all__ = ["RESULT", "main", "row_of_runtime"]

RESULT: Final = RESULTS / "portability.json"


def row_of_runtime(runtime: Runtime, environments: Path, exported: Path, cases: list[Case]) -> dict[str, Any]:
    """The results of one runtime, or why it could not be installed."""
    row: dict[str, Any] = {"name": runtime.name, "packages": list(runtime.packages), "note": runtime.note}
    try:
        folder = install(runtime, environments)
    except MissingDependencyError as error:
        return row | {"reason": str(error)}
    return row | {"files": results_of_runtime(runtime, folder, exported, cases)}


@click.command()
@click.option("--runtime", "names", multiple=True, help="Only this one; may be given several times.")
@click.option("--quick", is_flag=True, help="Only those that install in seconds.")
@click.option("--resume", is_flag=True, help="Keep the rows of the output file, make the others.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/portability"),
    show_default=True,
    help="Folder for the environments; they are reused.",
)
@output_option(RESULT)
@json_option
def main(names: tuple[str, ...], quick: bool, resume: bool, work: Path, output: Path, as_json: bool) -> None:
    """Run the exported files in every runtime that can be installed, and compare each with torch."""
    unknown = set(names) - {runtime.name for runtime in RUNTIMES}
    if unknown:
        known = ", ".join(runtime.name for runtime in RUNTIMES)
        raise click.BadParameter(f"no runtime is called {', '.join(sorted(unknown))}; there are: {known}")
    wanted = [r for r in RUNTIMES if (r.quick or not quick) and (not names or r.name in names)]
    rows = _rows_of_file(output) if resume else {}
    work = work.absolute()
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tokfilter-portability-") as folder:
        click.echo(f"exporting {MODEL}", err=True)
        cases = write_cases(Path(folder))
        for runtime in wanted:
            if runtime.name not in rows:
                click.echo(f"running {runtime.name}", err=True)
                rows[runtime.name] = row_of_runtime(runtime, work, Path(folder) / "out", cases)
            in_order = [rows[r.name] for r in RUNTIMES if r.name in rows]
            document = header("tokfilter/portability", command_line()) | {"model": MODEL, "runtimes": in_order}
            write_json(output, document)
    publish(document, output, as_json, portability_table(document).splitlines())


def _rows_of_file(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["runtimes"]}
