"""What `tokfilter predict` prints and writes for an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokfilter.commands.terminal import Terminal

if TYPE_CHECKING:
    from tokfilter.runtime.predict import Guess, Prediction

__all__ = ["document_of", "print_line", "print_one", "write_embeddings", "write_picture"]


def write_picture(prediction: "Prediction", path: Path, scores: bool) -> None:
    """Write the picture of kept tokens, or of the scores, as PNG, with masks beside it. Raises DataError, OSError."""
    from tokfilter.artifacts.files import atomic_path
    from tokfilter.runtime.predict import picture_from_prediction

    picture = picture_from_prediction(prediction, scores)
    with atomic_path(path) as part:
        picture.save(part, format="PNG")


def write_embeddings(embeddings: Sequence[Any], path: Path) -> None:
    """Write the embeddings [n, C] as a .npy file of float32. Raises OSError."""
    import numpy as np

    from tokfilter.artifacts.files import atomic_path

    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, np.stack(embeddings).astype(np.float32), allow_pickle=False)


def document_of(prediction: "Prediction", source: Path, image: Path, picture: Path | None, top: int) -> dict[str, Any]:
    """The prediction with schema and version, for JSON."""
    guesses = [{"class": g.name, "index": g.index, "probability": g.probability} for g in prediction.top(top)]
    return {
        "schema": "tokfilter/prediction",
        "version": 1,
        "source": str(source),
        "image": str(image),
        "picture": None if picture is None else str(picture),
        "top": guesses,
        "tokens": prediction.tokens,
        "grid": list(prediction.grid),
        "indices": None if prediction.indices is None else prediction.indices.tolist(),
        **_stages(prediction),
        **_areas(prediction),
        **({} if prediction.embedding is None else {"embedding": prediction.embedding.tolist()}),
    }


def _stages(prediction: "Prediction") -> dict[str, Any]:
    """The key ``stages`` of a model that reduces inside its blocks: positions of patches behind each choice."""
    if not prediction.stages:
        return {}
    stages = [
        {
            "block": stage.block,
            "kept": stage.alone,
            "groups": stage.groups,
            "idle": stage.waiting,
            "dropped": stage.dropped,
        }
        for stage in prediction.stages
    ]
    return {"stages": stages}


def _areas(prediction: "Prediction") -> dict[str, Any]:
    """The key ``areas`` of a model that gives masks: its classes with their fraction of the pixels."""
    if prediction.classes is None:
        return {}
    areas = [{"class": g.name, "index": g.index, "pixels": g.probability} for g in prediction.areas]
    return {"areas": areas, "mask_size": list(prediction.classes.shape)}


def print_line(console: Terminal, prediction: "Prediction", image: Path, top: int) -> None:
    """One line: the image, then the most probable classes, or those of the most pixels, or the embedding's size."""
    if prediction.embedding is not None:
        console.print(f"{image}  {_embedding_text(prediction)}", soft_wrap=True, markup=False)
        return
    shown = _shown(prediction, top)
    guesses = "  ".join(f"{100 * guess.probability:5.1f} % {guess.name}" for guess in shown)
    console.print(f"{image}  {guesses}", soft_wrap=True, markup=False)


def print_one(prediction: "Prediction", picture: Path | None, top: int) -> None:
    """Classes with bars, and a map of the kept tokens."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for place, guess in enumerate(_shown(prediction, top)):
        style = "bold" if place == 0 else ""
        table.add_row(
            escape(guess.name), f"{100 * guess.probability:.1f} %", "━" * round(30 * guess.probability), style=style
        )
    console = Terminal()
    if prediction.embedding is None:
        console.print(table)
    else:
        console.print(_embedding_text(prediction))
    if prediction.classes is not None:
        high, wide = prediction.classes.shape
        console.print(f"\nper cent of the pixels of masks of {wide} x {high}", style="dim")
    rows, columns = prediction.grid
    console.print(f"\n{prediction.tokens} of {rows * columns} patch tokens kept", style="dim")
    if prediction.indices is not None and 2 * columns <= console.width:
        console.print(_map(prediction))
    for stage in prediction.stages:
        console.print(stage.summary, style="dim")
    if picture is not None:
        console.print(f"picture: {picture}", soft_wrap=True, markup=False)


def _embedding_text(prediction: "Prediction") -> str:
    import numpy as np

    assert prediction.embedding is not None
    first = " ".join(f"{value:.3g}" for value in prediction.embedding[:4])
    length = float(np.linalg.norm(prediction.embedding))
    return f"embedding of {len(prediction.embedding)} numbers, length {length:.4g}: {first} ..."


def _shown(prediction: "Prediction", top: int) -> "list[Guess]":
    """Classes with probabilities; of masks with their fractions of the pixels."""
    return prediction.top(top) if prediction.classes is None else prediction.areas[:top]


def _map(prediction: "Prediction") -> str:
    """The grid of patches as text; kept ones are filled."""
    from tokfilter.runtime.pictures import kept_mask

    assert prediction.indices is not None
    return "\n".join(
        "".join("██" if kept else "··" for kept in row) for row in kept_mask(prediction.indices, prediction.grid)
    )
