"""``python -m examples.service out/``: serve an export directory over HTTP."""

import signal
from pathlib import Path
from typing import Any, get_args

import click
import uvicorn

from tokfilter.artifacts.manifest import Runtime
from tokfilter.errors import TokfilterError
from tokfilter.runtime.onnxruntime_session import PROVIDERS
from tokfilter.runtime.sessions import SessionOptions

from .app import Limits, Service
from .engine import engine_from_directory


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--runtime", type=click.Choice(get_args(Runtime)), default="onnx", show_default=True)
@click.option("--precision", default="fp32", show_default=True, help="As exported: fp32, fp16 or bf16.")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.")
@click.option("--cuda-graph", is_flag=True, help="Use a CUDA graph (TensorRT).")
@click.option("--batch", type=click.IntRange(min=1), help="Largest batch.  [default: the engine's, or 8]")
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Most requests in flight.")
@click.option(
    "--wait-ms", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Wait for a fuller batch."
)
@click.option("--body-mb", type=click.FloatRange(min=0.001), default=20.0, show_default=True, help="Largest file.")
@click.option("--megapixels", type=click.FloatRange(min=0.001), default=24.0, show_default=True, help="Largest image.")
@click.option("--body-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time to send a file.")
@click.option("--connections", type=click.IntRange(min=1), default=1024, show_default=True, help="Most connections.")
def main(directory: Path, **params: Any) -> None:
    """Serve the export DIRECTORY (written by `tokfilter export`): POST /classify with a JPEG or PNG file as body."""
    options = SessionOptions(
        params["runtime"], params["precision"], params["provider"], params["threads"], cuda_graph=params["cuda_graph"]
    )
    limits = Limits(
        params["queue"],
        params["wait_ms"],
        int(params["body_mb"] * 1e6),
        int(params["megapixels"] * 1e6),
        params["body_s"],
    )
    try:
        with engine_from_directory(directory, options, params["batch"]) as engine:
            service = Service(engine, limits)
            _serve(service, params["host"], params["port"], params["connections"])
    except TokfilterError as error:
        raise click.ClickException(str(error)) from error
    served = {status.labels["status"]: int(status.value) for status in _samples(service)}
    click.echo(f"stopped: {served or 'no requests'}", err=True)


def _serve(service: Service, host: str, port: int, connections: int) -> None:
    """Run until SIGTERM or SIGINT; requests in flight are answered before it returns."""
    server = uvicorn.Server(uvicorn.Config(service.app, host, port, access_log=False, limit_concurrency=connections))
    # Uvicorn re-raises the signal that stopped it; these handlers make a stop exit with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run()


def _samples(service: Service) -> Any:
    (family,) = service.metrics.requests.collect()
    return [sample for sample in family.samples if sample.name.endswith("_total")]


if __name__ == "__main__":
    main(prog_name="python -m examples.service")
