"""tokfilter serve."""

from pathlib import Path
from typing import Any

import click

from tokfilter.commands.service_options import limit_options, limits_from
from tokfilter.commands.session_options import BATCH, bounded_run, session_options, session_options_from


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--batch", type=BATCH, help="Largest batch.  [default: the engine's, or 8]")
@limit_options
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the bearer token that requests need.  [default: none is needed]",
)
@session_options
def serve(directory: Path, **params: Any) -> None:
    """Serve the export DIRECTORY over HTTP: POST /classify with a JPEG or PNG file as body. See docs/service.md."""
    options = session_options_from(params)
    if options.fixed_shapes:
        raise click.UsageError(
            "--fixed-shapes compiles again for each number of images and each budget, while requests wait; requests "
            "choose both: leave it out."
        )

    from tokfilter.runtime.service.app import Service
    from tokfilter.runtime.service.bearer_token import token_from_file
    from tokfilter.runtime.service.engine import LARGEST, engine_from_directory
    from tokfilter.runtime.service.memory import keep_heap_small
    from tokfilter.runtime.service.server import serve as run

    token = None if params["token_file"] is None else token_from_file(params["token_file"])
    limits, batch = limits_from(params), params["batch"]
    keep_heap_small()
    with (
        bounded_run(directory, [options], batch or LARGEST, more=limits.memory_bytes),
        engine_from_directory(directory, options, batch) as engine,
    ):
        service = Service(engine, limits, token)
        run(service, params["host"], params["port"])
    click.echo(f"stopped: {service.metrics.answered() or 'no requests'}", err=True)
