"""Options for the preprocessing of a start model."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from tokfilter.artifacts.limits import CROP_MODES, INTERPOLATIONS

if TYPE_CHECKING:
    from tokfilter.train.recipe import Recipe

__all__ = ["PIXELS", "pixel_options", "pixels_from_options"]

Command = Callable[..., Any]
PIXELS: Final = ("mean", "std", "interpolation", "input_size", "crop_pct", "crop_mode")
_NUMBERS: Final = "NUMBER[,NUMBER,NUMBER]"


def _per_channel(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers, from one or from one for each channel."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(abs(number) <= 1e6 for number in numbers):
        raise click.BadParameter(f"expected one number, or three with commas between, got {text!r}.")
    return numbers * 3 if len(numbers) == 1 else numbers


def _input_size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int, int] | None:
    """(3, height, width), from a side or height x width."""
    if text is None:
        return None
    sides = [int(part) for part in text.split("x") if part.isascii() and part.isdigit() and len(part) < 6]
    if len(sides) != text.count("x") + 1 or len(sides) > 2 or not all(1 <= side <= 4096 for side in sides):
        raise click.BadParameter(f"expected a size such as 224 or 224x160, at most 4096, got {text!r}.")
    return (3, sides[0], sides[-1])


def pixel_options(command: Command) -> Command:
    """The options; they replace what timm or the checkpoint's folder says."""
    for option in (
        click.option(
            "--crop-mode",
            type=click.Choice(CROP_MODES),
            help="Edge that is fitted: center the shorter, squash both, border the longer; -floor: as transformers.",
        ),
        click.option("--crop-pct", type=click.FloatRange(0, 16, min_open=True), help="Input size over resized size."),
        click.option(
            "--input-size",
            callback=_input_size,
            metavar="PIXELS[xPIXELS]",
            help="Height and width in pixels: 224 or 224x160. Positions are resampled.",
        ),
        click.option("--interpolation", type=click.Choice(INTERPOLATIONS), help="Filter of the resize."),
        click.option("--std", callback=_per_channel, metavar=_NUMBERS, help="Standard deviations, as --mean."),
        click.option(
            "--mean",
            callback=_per_channel,
            metavar=_NUMBERS,
            help="Means per channel for pixels in 0..1: 0.5 or 0.48,0.46,0.41. These six options replace what timm or "
            "the checkpoint's folder says; a bundle keeps its own.",
        ),
    ):
        command = option(command)
    return command


def pixels_from_options(params: Mapping[str, Any], recipe: "Recipe") -> dict[str, Any]:
    """Preprocessing that replaces the model's; None: the model's. The option comes before the recipe."""
    given = {name: params[name] for name in PIXELS}
    return {**given, "crop_pct": recipe.data.crop_pct if given["crop_pct"] is None else given["crop_pct"]}
