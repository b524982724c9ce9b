"""Options that `tokfilter train` and `tokfilter label` share, and the functions that read them."""

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.pixel_options import PIXELS, pixel_options

if TYPE_CHECKING:
    from tokfilter.train.checkpoint.foreign import ForeignModel
    from tokfilter.train.data import Progress, Splits
    from tokfilter.train.distributed import DistContext
    from tokfilter.train.recipe import Recipe
    from tokfilter.train.start import Start

__all__ = [
    "arguments_from_text",
    "checked_splits",
    "foreign_from_options",
    "listed_splits",
    "model_options",
    "recipe_from_options",
    "recipe_options",
    "start_from_options",
]

Command = Callable[..., Any]


def model_options(command: Command) -> Command:
    """Options for the start model, its classes and its preprocessing."""
    for option in (
        click.option(
            "--class-map",
            type=click.Path(path_type=Path),
            help="Text file with one class name per line, in the model's order. Images of other classes are left out.",
        ),
        click.option("--arch-arg", multiple=True, metavar="NAME=VALUE", help="Argument of the timm model; repeatable."),
        click.option(
            "--arch", help="timm model name. Not needed for a bundle (model.pt) and for a folder with config.json."
        ),
    ):
        command = option(command)
    return pixel_options(command)


def recipe_options(command: Command) -> Command:
    """Options for the recipe, which has every setting without an option of its own."""
    for option in (
        click.option(
            "--loss",
            type=click.Choice(["cross-entropy", "feature", "kl"]),
            help="Of labels and fine-tuning. Without class labels: feature (cosine distance from the full model's "
            "output) or kl (divergence from its classes). Default: the recipe's (cross-entropy).",
        ),
        click.option("--seed", type=int, help="Seed of every random draw. Default: the recipe's (0)."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="Change one setting of the recipe, such as labels.mask_point=before; repeatable.",
        ),
        click.option(
            "--recipe",
            default="default",
            show_default=True,
            help="TOML file of settings (`tokfilter train --print-recipe` lists them), or a built-in recipe.",
        ),
    ):
        command = option(command)
    return command


def recipe_from_options(
    recipe: str, settings: Sequence[str], options: Mapping[str, Any], frozen: bool = False
) -> "Recipe":
    """The recipe, changed by options (values by dotted name, None: not given), then by --set. Raises RecipeError.

    frozen: --frozen-backbone
    """
    from tokfilter.train.recipe import Recipe
    from tokfilter.train.recipe_file import recipe_for_backbone, recipe_from_source, values_from_texts

    given = {name: value for name, value in options.items() if value is not None}
    changes = {**given, **values_from_texts(settings)}
    source, changes = recipe_for_backbone(recipe, changes, "frozen" if frozen else None)
    assert not isinstance(source, Recipe)
    return recipe_from_source(source, changes)


def arguments_from_text(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are Python literals, or else text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"--arch-arg expects NAME=VALUE, such as img_size=224, got {text!r}.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def listed_splits(
    data: Path,
    holdout: float,
    class_map: Path | None = None,
    dist_context: "DistContext | None" = None,
    model_names: Sequence[str] = (),
    need_classes: bool = True,
) -> "Splits":
    """The images of the class map's classes, by name: none is read. Those left out are named on standard error.

    model_names: classes in a checkpoint's order, which is taken where the data has the same classes
    need_classes: False takes images without classes too
    """
    from tokfilter.train.checkpoint.class_names import same_names
    from tokfilter.train.class_map import mapped
    from tokfilter.train.class_map_file import class_map_from_file
    from tokfilter.train.data import Splits, splits_from_folder
    from tokfilter.train.distributed import SINGLE_PROCESS

    dist_context = dist_context or SINGLE_PROCESS
    splits = splits_from_folder(data, holdout=holdout, need_classes=need_classes)
    if class_map is not None and not splits.train.labelled:
        raise click.UsageError(f"{data} has images without classes: leave --class-map out.")
    if class_map is not None:
        names = class_map_from_file(class_map)
    elif same_names(model_names, splits.train.class_names):
        names = tuple(model_names)
    else:
        names = splits.train.class_names
    if names != splits.train.class_names:
        once = _warn if dist_context.is_main else lambda text: None
        splits = Splits(*(mapped(part, names, once) for part in (splits.train, splits.test)))
    return splits


def checked_splits(splits: "Splits", progress: "Progress", dist_context: "DistContext | None" = None) -> "Splits":
    """The images that can be decoded; the others are named on standard error. Raises DataError."""
    from tokfilter.train.data import Splits, checked
    from tokfilter.train.distributed import SINGLE_PROCESS

    context = dist_context or SINGLE_PROCESS
    return Splits(*(checked(part, progress, _warn, context) for part in (splits.train, splits.test)))


def start_from_options(
    arch: str | None,
    arch_arg: Sequence[str],
    checkpoint: Path | None,
    class_names: tuple[str, ...] | None,
    foreign: "ForeignModel | None" = None,
    dist_context: "DistContext | None" = None,
    **options: Any,
) -> "Start":
    """The start model (``train/start.py``); ``options`` go to ``start_from_timm``. Its notes go to standard error.

    class_names: None for training without class labels
    dist_context: the first of several processes writes the notes
    """
    start = _start(arch, arch_arg, checkpoint, class_names, foreign, options)
    for note in start.notes if dist_context is None or dist_context.is_main else ():
        _warn(f"note: {note}")
    return start


def foreign_from_options(
    arch: str | None, arch_arg: Sequence[str], checkpoint: Path | None, preprocessing: Mapping[str, Any]
) -> "ForeignModel | None":
    """The model of a checkpoint that is a folder; None for any other start model."""
    if checkpoint is None or not checkpoint.is_dir():
        return None
    from tokfilter.train.checkpoint.folder import model_from_folder

    if arch_arg:
        raise click.UsageError(f"{checkpoint} is a folder, whose config.json has the arguments: leave --arch-arg out.")
    foreign = model_from_folder(checkpoint, preprocessing)
    if arch is not None and arch.partition(".")[0] != foreign.architecture.name:
        raise click.UsageError(
            f"{checkpoint} is a folder whose config.json gives {foreign.architecture.name}, --arch says {arch}: "
            "leave --arch out."
        )
    return foreign


def _start(
    arch: str | None,
    arch_arg: Sequence[str],
    checkpoint: Path | None,
    class_names: tuple[str, ...] | None,
    foreign: "ForeignModel | None",
    options: dict[str, Any],
) -> "Start":
    from tokfilter.artifacts.bundle import Architecture
    from tokfilter.train.start import start_from_bundle, start_from_folder, start_from_timm

    if foreign is not None:
        used = {name: options[name] for name in ("new_head", "seed", "preprocessing") if name in options}
        return start_from_folder(foreign, class_names, **used)
    if arch is not None:
        architecture = Architecture(arch, arguments_from_text(arch_arg))
        classes = None if class_names is None else len(class_names)
        return start_from_timm(architecture, classes, checkpoint, **options)
    if checkpoint is None:
        raise click.UsageError(
            "expected a start model, got none: give --arch (a timm model), or --checkpoint with a bundle (model.pt) or "
            "a folder of timm or transformers."
        )
    given = {name: value for name, value in options.get("preprocessing", {}).items() if value is not None}
    crop_pct = given.pop("crop_pct", None)
    if given:
        option = f"--{next(name for name in PIXELS if name in given).replace('_', '-')}"
        raise click.UsageError(f"{checkpoint} is a bundle with a preprocessing of its own: leave {option} out.")
    start = start_from_bundle(checkpoint, class_names)
    if crop_pct not in (None, start.preprocessing.crop_pct):
        raise click.UsageError(
            f"{checkpoint} is a bundle with a crop_pct of its own ({start.preprocessing.crop_pct:g}, got "
            f"{crop_pct:g}): leave --crop-pct and the recipe's data.crop_pct out."
        )
    return start


def _warn(text: str) -> None:
    click.echo(text, err=True)
