"""Options that `tokfilter train` and `tokfilter label` share, and what they mean."""

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tokfilter.train.data import Progress, Splits
    from tokfilter.train.distributed import DistContext
    from tokfilter.train.labels import LabelConfig
    from tokfilter.train.start import Start

__all__ = ["arguments_from_text", "label_config", "label_options", "model_options", "read_splits", "start_from_options"]

Command = Callable[..., Any]


def label_options(command: Command) -> Command:
    """How delta loss is made into labels."""
    for option in (
        click.option("--mask", type=click.Choice(["zero", "mean", "removed"]), default="zero", show_default=True),
        click.option("--mask-point", type=click.Choice(["before", "after"]), default="after", show_default=True),
        click.option(
            "--method",
            type=click.Choice(["exact", "first-order", "grouped"]),
            default="exact",
            show_default=True,
            help="One pass per token, one gradient per image, or one pass per group of tokens.",
        ),
        click.option("--group-shape", type=click.Choice(["block", "random"]), default="block", show_default=True),
        click.option("--group-size", type=int, default=4, show_default=True, help="Tokens that are masked together."),
        click.option("--group-rounds", type=int, default=2, show_default=True, help="Groups that each token is in."),
        click.option(
            "--label-precision",
            type=click.Choice(["fp32", "fp16", "bf16"]),
            default="fp32",
            show_default=True,
            help="Of the forward passes.",
        ),
        click.option("--label-limit", type=click.IntRange(min=1), help="Label at most so many images. Default: all."),
        click.option("--chunk", type=click.IntRange(min=1), default=256, show_default=True, help="Bounds the memory."),
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """Which data, and what model to begin with."""
    for option in (
        click.option(
            "--holdout", type=float, default=0.1, show_default=True, help="Test share of an undivided folder."
        ),
        click.option(
            "--class-map",
            type=click.Path(path_type=Path),
            help="Text file with one class name per line: the classes that count, in the model's order.",
        ),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--arch-arg", multiple=True, metavar="NAME=VALUE", help="Argument of timm's model; repeatable."),
        click.option("--arch", help="timm's model name. Left out: the checkpoint is a bundle (model.pt)."),
    ):
        command = option(command)
    return command


def arguments_from_text(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are Python literals, or else text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"--arch-arg wants NAME=VALUE, got {text!r}.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def label_config(asked: Mapping[str, Any]) -> "LabelConfig":
    """The label settings of ``label_options``, with rho and share where they are options too."""
    from tokfilter.train.labels import LabelConfig
    from tokfilter.train.masking import MaskConfig
    from tokfilter.train.token_sets import Grouping

    mask = MaskConfig(asked["mask"], asked["mask_point"])
    groups = Grouping(asked["group_shape"], asked["group_size"], asked["group_rounds"])
    fraction = asked.get("share", LabelConfig.fraction)
    return LabelConfig(mask, asked.get("rho"), fraction, asked["method"], groups, asked["label_precision"])


def read_splits(
    data: Path,
    holdout: float,
    progress: "Progress",
    class_map: Path | None = None,
    dist_context: "DistContext | None" = None,
) -> "Splits":
    """The images that can be decoded, of the classes that count; the others are named on standard error."""
    from tokfilter.train.class_map import class_map_from_file, mapped
    from tokfilter.train.data import Splits, checked, splits_from_folder
    from tokfilter.train.distributed import SINGLE_PROCESS

    dist_context = dist_context or SINGLE_PROCESS
    splits = splits_from_folder(data, holdout=holdout)
    if class_map is not None:
        names = class_map_from_file(class_map)
        once = _warn if dist_context.is_main else lambda text: None
        splits = Splits(*(mapped(part, names, once) for part in (splits.train, splits.test)))
    return Splits(*(checked(part, progress, _warn, dist_context) for part in (splits.train, splits.test)))


def start_from_options(
    arch: str | None,
    arch_arg: Sequence[str],
    checkpoint: Path | None,
    class_names: tuple[str, ...],
    **options: Any,
) -> "Start":
    """The model to begin with (``train/start.py``); ``options`` go to ``start_from_timm``."""
    from tokfilter.train.start import start_from_bundle, start_from_timm
    from tokfilter.vit.backbone import Architecture

    if arch is not None:
        architecture = Architecture(arch, arguments_from_text(arch_arg))
        return start_from_timm(architecture, len(class_names), checkpoint, **options)
    if checkpoint is None:
        raise click.UsageError("give --arch (a timm model), or a bundle to go on from.")
    return start_from_bundle(checkpoint, class_names)


def _warn(text: str) -> None:
    click.echo(text, err=True)
