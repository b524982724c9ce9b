"""``tokfilter.kept_tokens_figure``: one image at several budgets, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.images import open_image, rgb_from_image
from tokfilter.errors import DataError
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.predict import (
    Prediction,
    picture_from_prediction,
    predict,
    prediction_from_model,
    prediction_from_session,
)
from tokfilter.runtime.session import CheckedSession

if TYPE_CHECKING:
    from tokfilter.vit.model import FilteredViT

__all__ = ["kept_tokens_figure"]

_GAP: Final = 12
_LINE: Final = 22
"""Pixels between the panels, and the height of a line of text."""


def kept_tokens_figure(
    source: "FilteredViT | CheckedSession | str | Path",
    image: Image.Image | str | Path,
    keep: Sequence[Keep] = (1.0, 0.5, 0.25),
) -> Image.Image:
    """A figure of the kept tokens: dropped patches are dark and grey, kept ones unchanged.

    source: a patched model, an open session, a bundle (model.pt) or an export directory
    image: a file, or a Pillow image of any mode
    keep: one panel per budget
    Returns an RGB image. Raises DataError, BudgetError and what opening the source raises.
    """
    if not keep:
        raise DataError("a figure needs at least one budget, got none.")
    picture = rgb_from_image(image) if isinstance(image, Image.Image) else open_image(image)
    found = [_prediction(source, picture, one) for one in keep]
    return _side_by_side([picture_from_prediction(one) for one in found], [_caption(one) for one in found])


def _prediction(source: "FilteredViT | CheckedSession | str | Path", picture: Image.Image, keep: Keep) -> Prediction:
    if isinstance(source, str | Path):
        return predict(source, picture, keep)
    if isinstance(source, CheckedSession):
        model_file = getattr(source, "model_file", None)
        if not isinstance(model_file, ModelFile):
            raise DataError(
                f"a figure needs the preprocessing of an export directory, {type(source).__name__} has none."
            )
        return prediction_from_session(source, model_file.manifest.model, picture, keep)
    return prediction_from_model(source, picture, keep)


def _caption(found: Prediction) -> tuple[str, str]:
    rows, columns = found.grid
    (best,) = found.top(1)
    return f"{found.tokens} of {rows * columns} tokens", f"{best.name} {best.probability:.0%}"


def _side_by_side(panels: Sequence[Image.Image], captions: Sequence[tuple[str, str]]) -> Image.Image:
    width, height = panels[0].size
    size = (len(panels) * (width + _GAP) + _GAP, height + 2 * _GAP + 2 * _LINE)
    figure = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(16)
    for i, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left = _GAP + i * (width + _GAP)
        figure.paste(panel, (left, _GAP))
        for j, line in enumerate(lines):
            draw.text((left, height + _GAP + 4 + j * _LINE), line, fill="black", font=font)
    return figure
