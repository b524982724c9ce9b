"""tokfilter page."""

from pathlib import Path

import click

from tokfilter.commands.json_output import json_option, print_json


@click.command(epilog="Example: tokfilter page out/ -o page/ && python -m http.server --directory page 8000")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder with pictures to start with; 8 of them are copied.  [default: the images of the golden tensors]",
)
@click.option("--precision", default="fp32", show_default=True, help="Precision of the graphs to take.")
@click.option(
    "--onnxruntime-web",
    type=click.Path(path_type=Path),
    help="Its npm package (.tgz), for a machine without a network.  [default: fetched, and kept in the user's cache]",
)
@json_option
def page(
    directory: Path, output: Path, images: Path | None, precision: str, onnxruntime_web: Path | None, as_json: bool
) -> None:
    """Make a web page of an export DIRECTORY: the model runs in the browser, with a slider for the budget.

    The page shows the kept tokens, probabilities and milliseconds, every token beside the filtered ones. It is a
    folder of static files that needs no network, for any web server.
    """
    from tokfilter.benchmarks.page.build import write_page

    written = write_page(directory, output, images, precision, onnxruntime_web)
    if as_json:
        print_json("page", {"folder": output, "bytes": written.bytes, "model_bytes": written.models})
        return
    click.echo(f"{written.bytes / 1e6:.1f} MB, of which models {written.models / 1e6:.1f} MB  {output}")
    click.echo(f"open it: python -m http.server --directory {output} 8000, then http://localhost:8000")
