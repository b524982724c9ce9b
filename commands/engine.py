"""tokfilter engine."""

from pathlib import Path
from typing import Any

import click

from tokfilter.commands.build_options import build_options, engine_lines, export_options_from_params
from tokfilter.commands.json_output import json_option, print_json
from tokfilter.commands.progress import step_status


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@build_options
@click.option(
    "--plugin",
    "plugin_library",
    type=click.Path(path_type=Path),
    help="Plugin library.  [default: that of `tokfilter plugin build`, else the directory's]",
)
@json_option
def engine(directory: Path, plugin_library: Path | None, as_json: bool, **params: Any) -> None:
    """Build engines for this machine from the graphs of an export DIRECTORY; neither torch nor model.pt is needed.

    Each engine is compared with torch's outputs on this GPU before it is written beside the graphs and into the
    manifest; where one differs, the directory stays as it was. Exit code 3 then.
    """
    from tokfilter.artifacts.files import existing_file
    from tokfilter.export.add_engines import add_engines
    from tokfilter.runtime.verification import check_engine

    if not (params["trt"] or params["rtx"]):
        raise click.UsageError("choose the engines: --trt, --rtx or both.")
    if plugin_library is not None:
        plugin_library = existing_file(plugin_library, "--plugin")
    options = export_options_from_params(plugin_library=plugin_library, **params)
    with step_status("reading the export") as step:
        built = add_engines(directory, options, step, check_engine)
    for entry in built:
        for line in engine_lines(entry):
            click.echo(line, err=True)
    if as_json:
        print_json("engines", {"directory": directory, "engines": [entry.as_dict() for entry in built]})
        return
    for entry in built:
        click.echo(f"{entry.bytes / 1e6:9.1f} MB  {directory / entry.path}")
