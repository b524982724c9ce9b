"""tokfilter eval."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.json_output import echo_json
from tokfilter.commands.progress import command_line, progress_bar
from tokfilter.commands.session_options import BATCH

if TYPE_CHECKING:
    from tokfilter.benchmarks.evaluated_part import Choice


@click.command(name="eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    "keeps",
    multiple=True,
    default=["1.0,0.7,0.5,0.35,0.25"],
    show_default=True,
    help=f"Budgets, separated by commas: {KEEP_HELP}.",
)
@click.option(
    "--part",
    type=click.Choice(["held-out", "all"]),
    default="held-out",
    show_default=True,
    help="Images that the model was not trained on, or all.",
)
@click.option("--batch", type=BATCH, default=128, show_default=True, help="Images per batch.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Compare with the outputs of this bundle with every token, such as the model before training, without top-1.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write accuracy.json (or similarity.json) here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def evaluate(
    bundle: Path,
    data: Path,
    keeps: tuple[str, ...],
    part: "Choice",
    batch: int,
    reference: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Accuracy of BUNDLE (model.pt) at several budgets on DATA, a folder with one subfolder per class.

    DATA may also be a .tar archive or a folder of webdataset shards, as for `tokfilter train`.

    Where DATA has train and test folders, the test images are used. Otherwise the images that the bundle was trained
    on are left out: it records them by content, so they are known in other folders and under other names too.

    A model that gives embeddings, and images without classes, have no top-1: its outputs are compared with the full
    model's by cosine and recall@1, the fraction of images whose nearest other image is right: of its class, or where
    there are no classes the nearest of the full model.
    """
    from tokfilter.artifacts.budget import keeps_from_text
    from tokfilter.artifacts.files import check_target
    from tokfilter.benchmarks.documents import evaluated_images
    from tokfilter.benchmarks.similarity_document import evaluation_from_bundle
    from tokfilter.commands.tables import print_accuracy, print_similarity
    from tokfilter.runtime.measure.record import write_json

    budgets = keeps_from_text(keeps)
    if output is not None:
        check_target(output)
    with progress_bar() as progress:
        document = evaluation_from_bundle(
            bundle, data, budgets, batch, command_line(), progress, _warn, part, reference
        )
    if output is not None:
        write_json(output, document)
    if as_json:
        echo_json(document)
    else:
        if document["schema"] == "tokfilter/similarity":
            print_similarity(document["rows"], document["model"]["patches"])
        else:
            print_accuracy(document["rows"])
        click.echo(f"{document['data']['images']} {evaluated_images(document)}", err=True)


def _warn(text: str) -> None:
    click.echo(text, err=True)
