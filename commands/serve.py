"""tokfilter serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.session_options import BATCH, session_options, session_options_from

if TYPE_CHECKING:
    from tokfilter.runtime.service.limits import Limits


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--batch", type=BATCH, help="Largest batch.  [default: the engine's, or 8]")
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Most requests in flight.")
@click.option(
    "--wait-ms", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Wait for a fuller batch."
)
@click.option("--body-mb", type=click.FloatRange(min=0.001), default=20.0, show_default=True, help="Largest file.")
@click.option("--megapixels", type=click.FloatRange(min=0.001), default=24.0, show_default=True, help="Largest image.")
@click.option("--body-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time to send a file.")
@click.option(
    "--bodies-mb",
    type=click.FloatRange(min=0.001),
    default=256.0,
    show_default=True,
    help="Files in memory before they are decoded.",
)
@click.option(
    "--decoders", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images."
)
@click.option(
    "--draft/--no-draft", default=True, show_default=True, help="Decode large JPEG files at a reduced size (docs)."
)
@click.option("--connections", type=click.IntRange(min=1), default=4096, show_default=True, help="Most connections.")
@click.option(
    "--per-address",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Most connections from one address. Behind a proxy all come from one.",
)
@click.option(
    "--header-kb", type=click.FloatRange(min=1), default=16.0, show_default=True, help="Largest head of a request."
)
@click.option(
    "--header-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time to send a head."
)
@click.option(
    "--keep-alive-s",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Time without a request until a connection is closed. Behind a proxy: longer than the proxy's.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the bearer token that requests need.  [default: none is needed]",
)
@session_options
def serve(directory: Path, **params: Any) -> None:
    """Serve the export DIRECTORY over HTTP: POST /classify with a JPEG or PNG file as body. See docs/service.md."""
    from tokfilter.runtime.service.app import Service
    from tokfilter.runtime.service.bearer_token import token_from_file
    from tokfilter.runtime.service.engine import engine_from_directory
    from tokfilter.runtime.service.memory import keep_heap_small
    from tokfilter.runtime.service.server import serve as run

    token = None if params["token_file"] is None else token_from_file(params["token_file"])
    keep_heap_small()
    with engine_from_directory(directory, session_options_from(params), params["batch"]) as engine:
        service = Service(engine, _limits(params), token)
        run(service, params["host"], params["port"])
    click.echo(f"stopped: {service.metrics.answered() or 'no requests'}", err=True)


def _limits(params: dict[str, Any]) -> "Limits":
    from tokfilter.runtime.service.limits import Limits

    return Limits(
        admitted=params["queue"],
        wait_ms=params["wait_ms"],
        body_bytes=int(params["body_mb"] * 1e6),
        pixels=int(params["megapixels"] * 1e6),
        body_s=params["body_s"],
        bodies_bytes=int(params["bodies_mb"] * 1e6),
        decoders=params["decoders"],
        draft=params["draft"],
        connections=params["connections"],
        per_address=params["per_address"],
        header_bytes=int(params["header_kb"] * 1024),
        header_s=params["header_s"],
        keep_alive_s=params["keep_alive_s"],
    )
