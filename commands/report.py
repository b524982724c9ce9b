"""tokfilter report."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.commands.json_output import json_option, print_json

if TYPE_CHECKING:
    from tokfilter.runtime.pictures import Picture


@click.command()
@click.option("--accuracy", type=click.Path(path_type=Path), help="accuracy.json, from `tokfilter eval`.")
@click.option("--bench", type=click.Path(path_type=Path), help="bench.json, from `tokfilter bench`.")
@click.option("--bundle", type=click.Path(path_type=Path), help="model.pt: draw the tokens that it keeps.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder with a subfolder per class.  [default: the images in the bundle]",
)
@click.option(
    "--keep", multiple=True, help="Budgets of the pictures.  [default: 0.5,0.25,0.1, or the reducer's smallest]"
)
@click.option("--count", type=click.IntRange(min=1), default=6, show_default=True, help="Number of images.")
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0, max=100),
    default=1.0,
    show_default=True,
    help="Largest loss of top-1 of the budget in the headline, in percentage points.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="report.html", show_default=True)
@json_option
def report(
    accuracy: Path | None,
    bench: Path | None,
    bundle: Path | None,
    images: Path | None,
    keep: tuple[str, ...],
    count: int,
    max_drop: float,
    output: Path,
    as_json: bool,
) -> None:
    """Write a self-contained HTML page from measured documents, and a JSON file of the same name beside it."""
    from tokfilter.benchmarks.documents import accuracy_from_file, document_from_file
    from tokfilter.benchmarks.report.render import render_report

    if images is not None and bundle is None:
        raise click.UsageError("--images requires --bundle: the kept tokens are computed by a model.")
    tested = None if accuracy is None else accuracy_from_file(accuracy)
    measured = None if bench is None else document_from_file(bench, "tokfilter/bench")
    pictures = [] if bundle is None else _pictures(bundle, images, keep, count)
    data = render_report(tested, measured, pictures, output, max_drop / 100)
    if as_json:
        print_json("report-files", {"page": output, "data": data})
    else:
        click.echo(f"{output}\n{data}")


def _pictures(path: Path, images: Path | None, keep: tuple[str, ...], count: int) -> "list[Picture]":
    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.benchmarks.report.gallery import (
        default_keeps,
        pictures_from_bundle,
        samples_from_folder,
        samples_from_golden,
    )
    from tokfilter.vit.bundle import load_bundle

    bundle = load_bundle(path)
    if images is None:
        samples = samples_from_golden(bundle)[:count]
    else:
        samples = samples_from_folder(images, bundle.class_names, count)
    return pictures_from_bundle(bundle, samples, keeps_from_text(keep) if keep else default_keeps(bundle))
