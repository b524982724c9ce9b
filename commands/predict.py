"""tokfilter predict."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.group import needs
from tokfilter.commands.json_output import echo_json
from tokfilter.commands.session_options import PRECISIONS, bounded_run

if TYPE_CHECKING:
    from tokfilter.artifacts.budget import Keep
    from tokfilter.artifacts.manifest import Runtime
    from tokfilter.runtime.image_list import NamedImage
    from tokfilter.runtime.sessions import SessionOptions


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write a picture of the kept tokens (PNG); for several images a folder with one of each.",
)
@click.option(
    "--scores", is_flag=True, help="Colour the picture by the tokens' scores instead. SOURCE must be a bundle."
)
@click.option(
    "--npy",
    type=click.Path(path_type=Path),
    help="Write the embeddings here as a .npy file, [images, C] float32; for models without a classifier.",
)
@click.option("--keep", help=f"Budget: {KEEP_HELP}. Default: the model's own.")
@click.option(
    "--top", type=click.IntRange(min=1), help="Number of classes to show.  [default: 5; 1 for several images]"
)
@click.option(
    "--runtime",
    type=click.Choice(["onnx", "openvino"]),
    default="onnx",
    show_default=True,
    help="Engine of an export directory.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of an export directory's model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead; for several images one object in each line.")
def predict(
    source: Path,
    images: tuple[Path, ...],
    output: Path | None,
    scores: bool,
    npy: Path | None,
    keep: str | None,
    top: int | None,
    as_json: bool,
    runtime: "Runtime",
    precision: str,
) -> None:
    """Classify IMAGES and show the kept tokens. A model without a classifier gives embeddings.

    SOURCE is a bundle (model.pt), run by torch, or an export directory, run by ONNX Runtime or OpenVINO without torch.
    IMAGES are files, folders (with all that is within), and .txt files with one path in each line. Of several images,
    those that cannot be read are skipped, and the exit code is 1.
    """
    needs("train" if source.is_file() else {"onnx": "runtime"}.get(runtime, runtime))
    from tokfilter.artifacts.budget import keep_from_text
    from tokfilter.artifacts.files import check_target
    from tokfilter.errors import DataError
    from tokfilter.runtime.image_list import LIST_SUFFIX, images_from_paths
    from tokfilter.runtime.predict import check_scores
    from tokfilter.runtime.sessions import SessionOptions

    if not source.exists():
        raise DataError(f"expected a bundle (model.pt) or an export directory, but there is none at {source}.")
    if source.is_file() and (runtime, precision) != ("onnx", "fp32"):
        raise click.UsageError(
            "--runtime and --precision choose the engine of an export directory; torch runs a bundle."
        )
    if scores:
        check_scores(source)
    budget = None if keep is None else keep_from_text(keep)
    single = len(images) == 1 and not images[0].is_dir() and images[0].suffix.lower() != LIST_SUFFIX
    if output is not None:
        check_target(output, folder=not single)
    if npy is not None:
        check_target(npy)
    named = images_from_paths(images)
    model = _Model(source, budget, SessionOptions(runtime, precision), npy)
    with bounded_run(source, [model.options], 1):
        if single:
            _one(model, images[0], output, scores, top or 5, as_json)
        else:
            _several(model, named, output, scores, top or 1, as_json)


@dataclass(frozen=True)
class _Model:
    source: Path
    keep: "Keep | None"
    options: "SessionOptions"
    npy: Path | None

    def write(self, found: Sequence[Any]) -> None:
        """Write the embeddings [C] of all images where asked for. Raises DataError for None, OSError."""
        if self.npy is None:
            return
        from tokfilter.commands.prediction_output import write_embeddings
        from tokfilter.errors import DataError

        if not found or any(embedding is None for embedding in found):
            what = "this model gives none" if found else "no image could be read"
            raise DataError(
                f"{self.npy} was not written: --npy takes embeddings, and {what}. Leave --npy out, or give a model "
                "without a classifier (num_classes=0) and images that can be read."
            )
        write_embeddings(found, self.npy)


def _one(model: _Model, image: Path, output: Path | None, scores: bool, top: int, as_json: bool) -> None:
    from tokfilter.commands.prediction_output import document_of, print_one, write_picture
    from tokfilter.runtime.predict import predict as prediction_from_source

    prediction = prediction_from_source(model.source, image, model.keep, model.options)
    model.write([prediction.embedding])
    if output is not None:
        write_picture(prediction, output, scores)
    if as_json:
        echo_json(document_of(prediction, model.source, image, output, top))
    else:
        print_one(prediction, output, top)


def _several(
    model: _Model, images: "Sequence[NamedImage]", output: Path | None, scores: bool, top: int, as_json: bool
) -> None:
    """A line for each image as soon as it is classified. Raises DataError at the end where some could not be read."""
    from tokfilter.artifacts.images import open_image
    from tokfilter.artifacts.text import printable
    from tokfilter.commands.prediction_output import document_of, print_line, write_picture
    from tokfilter.commands.progress import progress_bar
    from tokfilter.commands.terminal import Terminal
    from tokfilter.errors import DataError
    from tokfilter.runtime.image_list import picture_names
    from tokfilter.runtime.predict import predictor

    console, skipped, kept = Terminal(), 0, list[Any]()
    # On a terminal the lines themselves show the progress.
    reporting = nullcontext(lambda what, fraction: None) if console.is_terminal else progress_bar()
    with predictor(model.source, model.keep, model.options) as classify, reporting as progress:
        for done, (image, name) in enumerate(zip(images, picture_names(images), strict=True)):
            progress("classifying", done / len(images))
            try:
                prediction = classify(open_image(image.path))
            except (DataError, OSError) as error:
                skipped += 1
                named = "" if str(image.path) in str(error) else f"{image.path}: "
                click.echo(printable(f"skipped {named}{error}"), err=True)
                continue
            if model.npy is not None:
                kept.append(prediction.embedding)
                if prediction.embedding is None:
                    model.write(kept)
            picture = None if output is None else output / name
            if picture is not None:
                write_picture(prediction, picture, scores)
            if as_json:
                echo_json(document_of(prediction, model.source, image.path, picture, top), indent=None)
            else:
                print_line(console, prediction, image.path, top)
    model.write(kept)
    if skipped:
        raise DataError(f"{skipped} of {len(images)} images could not be read and were skipped.")
