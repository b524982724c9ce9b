"""tokfilter label."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from tokfilter.commands.json_output import print_json
from tokfilter.commands.pixel_options import pixels_from_options
from tokfilter.commands.progress import progress_bar
from tokfilter.commands.training_options import (
    checked_splits,
    foreign_from_options,
    listed_splits,
    model_options,
    recipe_from_options,
    recipe_options,
    start_from_options,
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the labels.")
@model_options
@recipe_options
@click.option("--shard", type=click.IntRange(min=1), default=128, show_default=True, help="Images per file of labels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def label(
    data: Path,
    model: Path,
    output: Path,
    arch: str | None,
    arch_arg: tuple[str, ...],
    shard: int,
    as_json: bool,
    **params: Any,
) -> None:
    """Measure the delta loss of every patch token of the training images in DATA.

    DATA is as for `tokfilter train`: class folders, .tar archives, webdataset shards. MODEL is a bundle, a folder of
    timm or transformers, or with --arch a checkpoint of that timm model. An interrupted run continues when the command
    is run again. `tokfilter train --labels` reads the result. Settings: `labels` in the recipe.

    Several processes: torchrun --nproc-per-node 8 -m tokfilter.cli label DATA MODEL -o LABELS.
    """
    from tokfilter.artifacts.files import check_target
    from tokfilter.train.data import quiet
    from tokfilter.train.distributed import context_from_torchrun
    from tokfilter.train.pipeline import check_label_run, label_folder
    from tokfilter.train.recipe import config_from_recipe

    recipe = recipe_from_options(params["recipe"], params["settings"], {"seed": params["seed"], "loss": params["loss"]})
    config = config_from_recipe(recipe, images=1)
    check_target(output, folder=True)
    pixels = pixels_from_options(params, recipe)
    foreign = foreign_from_options(arch, arch_arg, model, pixels)
    names = () if foreign is None else foreign.class_names
    labelled = recipe.loss == "cross-entropy"
    with (
        context_from_torchrun() as dist_context,
        progress_bar() if dist_context.is_main else nullcontext(quiet) as progress,
    ):
        splits = listed_splits(data, recipe.data.holdout, params["class_map"], dist_context, names, labelled)
        classes = splits.train.class_names if labelled else None
        start = start_from_options(arch, arch_arg, model, classes, foreign, dist_context, preprocessing=pixels)
        check_label_run(start, config, output)
        splits = checked_splits(splits, progress, dist_context)
        labels = label_folder(start, splits.train, config, output, progress, shard, dist_context)
    if dist_context.is_main:
        positive = float((labels.delta > 0).float().mean())
        facts: dict[str, Any] = {"images": len(labels.delta), "tokens": labels.delta.shape[1], "positive": positive}
        spread = float(labels.delta.std(dim=1, correction=0).mean())
        facts |= {
            "estimate": config.labels.groups.estimate if config.labels.method == "grouped" else None,
            "spread": spread,
        }
        facts |= {"mean_loss": float(labels.base.mean()), "mean_delta": float(labels.delta.mean()), "loss": recipe.loss}
        _print(output, facts, as_json)


def _print(output: Path, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json("labels", {"labels": output, **facts})
        return
    if facts["estimate"] == "log-ridge":
        click.echo(
            f"{output}: {facts['images']} images of {facts['tokens']} tokens; labels are differences of the log loss "
            f"({facts['loss']}), with a standard deviation in an image of {facts['spread']:.2g}"
        )
        return
    if facts["loss"] != "cross-entropy":
        click.echo(
            f"{output}: {facts['images']} images of {facts['tokens']} tokens; masking a token moves the output by "
            f"{facts['mean_delta']:.2g} on the mean ({facts['loss']})"
        )
        return
    click.echo(
        f"{output}: {facts['images']} images of {facts['tokens']} tokens; mean loss {facts['mean_loss']:.3f}; "
        f"masking raises the loss at {facts['positive']:.1%} of the tokens"
    )
