"""tokfilter label."""

from pathlib import Path
from typing import Any

import click

from tokfilter.commands.progress import progress_bar
from tokfilter.commands.training_options import (
    label_config,
    label_options,
    model_options,
    read_splits,
    start_from_options,
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the labels.")
@model_options
@label_options
@click.option("--shard", type=click.IntRange(min=1), default=128, show_default=True, help="Images written at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def label(
    data: Path,
    model: Path,
    output: Path,
    arch: str | None,
    arch_arg: tuple[str, ...],
    seed: int,
    holdout: float,
    as_json: bool,
    **asked: Any,
) -> None:
    """Delta loss of every patch token of the training images of DATA.

    MODEL is a bundle, or with --arch a checkpoint of that timm model. A run that was interrupted goes on when it is
    called again. `tokfilter train --labels` takes the result. Several processes share the work when torchrun starts
    them: torchrun --nproc-per-node 8 -m tokfilter.cli label DATA MODEL -o LABELS.
    """
    import json

    from tokfilter.train.config import TrainConfig
    from tokfilter.train.distributed import context_from_torchrun
    from tokfilter.train.pipeline import label_folder

    recipe = TrainConfig(
        labels=label_config(asked), label_limit=asked["label_limit"], label_chunk=asked["chunk"], seed=seed
    )
    with context_from_torchrun() as dist_context, progress_bar() as progress:
        splits = read_splits(data, holdout, progress, class_map=asked["class_map"], dist_context=dist_context)
        start = start_from_options(arch, arch_arg, model, splits.train.class_names)
        labels = label_folder(start, splits.train, recipe, output, progress, asked["shard"], dist_context)
    if not dist_context.is_main:
        return
    positive = float((labels.delta > 0).float().mean())
    facts = {"images": len(labels.delta), "tokens": labels.delta.shape[1], "positive": positive}
    facts["mean_loss"] = float(labels.base.mean())
    if as_json:
        click.echo(json.dumps({"schema": "tokfilter/labels", "version": 1, "labels": str(output), **facts}, indent=2))
        return
    click.echo(
        f"{output}: {facts['images']} images, {facts['tokens']} tokens each; mean loss {facts['mean_loss']:.3f}; "
        f"masking raises it at {positive:.1%} of the tokens"
    )
