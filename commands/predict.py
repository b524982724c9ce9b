"""tokfilter predict."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.group import needs
from tokfilter.commands.session_options import PRECISIONS

if TYPE_CHECKING:
    from tokfilter.artifacts.manifest import Runtime
    from tokfilter.runtime.predict import Prediction


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a picture of the kept tokens (PNG).")
@click.option(
    "--scores", is_flag=True, help="Colour the picture by the tokens' scores instead. SOURCE must be a bundle."
)
@click.option("--keep", help=f"Budget: {KEEP_HELP}. Default: the model's own.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of classes to show.")
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def predict(
    source: Path,
    image: Path,
    output: Path | None,
    scores: bool,
    keep: str | None,
    top: int,
    as_json: bool,
    runtime: "Runtime",
    precision: str,
) -> None:
    """Classify IMAGE and show the kept tokens.

    SOURCE is a bundle (model.pt), run by torch, or an export directory, run by ONNX Runtime or OpenVINO without torch.
    """
    needs("train" if source.is_file() else {"onnx": "runtime"}.get(runtime, runtime))
    from tokfilter.artifacts.budget import keep_from_text
    from tokfilter.runtime.predict import predict as prediction_from_source
    from tokfilter.runtime.sessions import SessionOptions

    if source.is_file() and (runtime, precision) != ("onnx", "fp32"):
        raise click.UsageError(
            "--runtime and --precision choose the engine of an export directory; torch runs a bundle."
        )
    options = SessionOptions(runtime, precision)
    prediction = prediction_from_source(source, image, None if keep is None else keep_from_text(keep), options)
    if output is not None:
        _write_picture(prediction, output, scores)
    if as_json:
        click.echo(_json(prediction, source, image, output, top))
    else:
        _print(prediction, output, top)


def _write_picture(prediction: "Prediction", output: Path, scores: bool) -> None:
    from tokfilter.artifacts.files import atomic_path
    from tokfilter.runtime.predict import picture_from_prediction

    picture = picture_from_prediction(prediction, scores)
    with atomic_path(output) as part:
        picture.save(part, format="PNG")


def _json(prediction: "Prediction", source: Path, image: Path, output: Path | None, top: int) -> str:
    guesses = [{"class": g.name, "index": g.index, "probability": g.probability} for g in prediction.top(top)]
    content = {
        "schema": "tokfilter/prediction",
        "version": 1,
        "source": str(source),
        "image": str(image),
        "picture": None if output is None else str(output),
        "top": guesses,
        "tokens": prediction.tokens,
        "grid": list(prediction.grid),
        "indices": None if prediction.indices is None else prediction.indices.tolist(),
    }
    return json.dumps(content, indent=2)


def _print(prediction: "Prediction", output: Path | None, top: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tokfilter.commands.terminal import Terminal

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for place, guess in enumerate(prediction.top(top)):
        style = "bold" if place == 0 else ""
        table.add_row(
            escape(guess.name), f"{100 * guess.probability:.1f} %", "━" * round(30 * guess.probability), style=style
        )
    console = Terminal()
    console.print(table)
    rows, columns = prediction.grid
    console.print(f"\n{prediction.tokens} of {rows * columns} patch tokens kept", style="dim")
    if prediction.indices is not None and 2 * columns <= console.width:
        console.print(_map(prediction))
    if output is not None:
        console.print(f"picture: {output}", soft_wrap=True, markup=False)


def _map(prediction: "Prediction") -> str:
    """The grid of patches as text; kept ones are filled."""
    from tokfilter.runtime.pictures import kept_mask

    assert prediction.indices is not None
    return "\n".join(
        "".join("██" if kept else "··" for kept in row) for row in kept_mask(prediction.indices, prediction.grid)
    )
