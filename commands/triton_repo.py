"""tokfilter triton-repo."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.commands.json_output import json_option, print_json

if TYPE_CHECKING:
    from tokfilter.export.serving.triton import Repository


@click.command("triton-repo", epilog="Example: tokfilter triton-repo out/ triton/ && triton/start.sh")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Include the models that keep every token.")
@click.option("--max-batch", default=32, show_default=True, help="Largest batch of ONNX graphs.")
@click.option("--delay-us", default=2000, show_default=True, help="Longest wait of a request for a fuller batch.")
@click.option("--queue", default=256, show_default=True, help="Requests that may wait before more are rejected.")
@click.option("--instances", default=1, show_default=True, help="Copies of each model on each device.")
@click.option("--plugin", type=click.Path(path_type=Path), help="Self-registering plugin library, for plans.")
@json_option
def triton_repo(
    directory: Path,
    target: Path,
    full: bool,
    max_batch: int,
    delay_us: int,
    queue: int,
    instances: int,
    plugin: Path | None,
    as_json: bool,
) -> None:
    """Write a model repository for Triton Inference Server from an export DIRECTORY.

    TARGET must not exist. Graphs that are rewritten for Triton are compared with the exported ones; every configuration
    is parsed with Triton's published protobuf.
    """
    from tokfilter.export.serving.triton import triton_repository
    from tokfilter.export.serving.triton_config import TritonOptions

    options = TritonOptions(max_batch, delay_us, queue, instances)
    written = triton_repository(directory, target, options, full, plugin)
    if as_json:
        models = {name: {"max_batch_size": config.max_batch_size} for name, config in written.models.items()}
        left_out = [{"reason": reason, "paths": list(paths)} for reason, paths in written.left_out.items()]
        print_json("triton-repo", {"folder": target, "models": models, "left_out": left_out})
    else:
        _show(written, target)


def _show(repository: "Repository", target: Path) -> None:
    for name, config in repository.models.items():
        batching = f"batches up to {config.max_batch_size}" if config.max_batch_size else "no dynamic batching"
        click.echo(f"{target / 'models' / name}  {batching}")
    for reason, paths in repository.left_out.items():
        click.echo(f"left out, because {reason}: {', '.join(paths)}", err=True)
    click.echo(f"start: {target / 'start.sh'}")
