"""tokfilter predict."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokfilter.artifacts.budget import KEEP_HELP

if TYPE_CHECKING:
    from tokfilter.runtime.predict import Prediction


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a picture of the kept tokens (PNG).")
@click.option("--scores", is_flag=True, help="Colour the picture by the tokens' scores instead; wants a bundle.")
@click.option("--keep", help=f"Budget: {KEEP_HELP}. Default: the model's own.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    source: Path, image: Path, output: Path | None, scores: bool, keep: str | None, top: int, as_json: bool
) -> None:
    """Classify IMAGE and show which tokens were kept.

    SOURCE is a bundle (model.pt, run by torch) or an export directory (run by ONNX Runtime, without torch).
    """
    from tokfilter.artifacts.budget import keep_from_text
    from tokfilter.runtime.predict import predict as run

    found = run(source, image, None if keep is None else keep_from_text(keep))
    if output is not None:
        _write_picture(found, output, scores)
    if as_json:
        click.echo(_json(found, source, image, output, top))
    else:
        _print(found, output, top)


def _write_picture(found: "Prediction", output: Path, scores: bool) -> None:
    from tokfilter.artifacts.files import atomic_path
    from tokfilter.runtime.predict import picture_from_prediction

    picture = picture_from_prediction(found, scores)
    with atomic_path(output) as part:
        picture.save(part, format="PNG")


def _json(found: "Prediction", source: Path, image: Path, output: Path | None, top: int) -> str:
    guesses = [{"class": g.name, "index": g.index, "probability": g.probability} for g in found.top(top)]
    content = {
        "schema": "tokfilter/prediction",
        "version": 1,
        "source": str(source),
        "image": str(image),
        "picture": None if output is None else str(output),
        "top": guesses,
        "tokens": found.tokens,
        "grid": list(found.grid),
        "indices": None if found.indices is None else found.indices.tolist(),
    }
    return json.dumps(content, indent=2)


def _print(found: "Prediction", output: Path | None, top: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for place, guess in enumerate(found.top(top)):
        style = "bold" if place == 0 else ""
        table.add_row(
            escape(guess.name), f"{100 * guess.probability:.1f} %", "━" * round(30 * guess.probability), style=style
        )
    console = Console(highlight=False)
    console.print(table)
    rows, columns = found.grid
    console.print(f"\n{found.tokens} of {rows * columns} patch tokens kept", style="dim")
    if found.indices is not None and 2 * columns <= console.width:
        console.print(_map(found))
    if output is not None:
        console.print(f"picture: {output}", soft_wrap=True, markup=False)


def _map(found: "Prediction") -> str:
    """The grid as text, a filled cell for each kept patch."""
    from tokfilter.runtime.pictures import kept_mask

    assert found.indices is not None
    return "\n".join("".join("██" if kept else "··" for kept in row) for row in kept_mask(found.indices, found.grid))
