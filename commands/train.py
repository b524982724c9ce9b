"""tokfilter train."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.progress import progress_bar
from tokfilter.commands.training_options import (
    label_config,
    label_options,
    model_options,
    read_splits,
    start_from_options,
)

if TYPE_CHECKING:
    from tokfilter.train.config import TrainConfig

_STAGES = ("backbone", "label", "filter", "finetune")


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("model.pt"), show_default=True)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="State dict (.pt, .pth, .safetensors), or a bundle."
)
@click.option("--pretrained", is_flag=True, help="Begin with timm's published weights.")
@model_options
@click.option("--crop-pct", type=float, help="Share of the resized image that is cropped. Default: timm's.")
@click.option("--stages", help="Some of backbone,label,filter,finetune. Default: what the start weights still lack.")
@click.option("--keep", default="0.5", show_default=True, help=f"Default budget: {KEEP_HELP}.")
@label_options
@click.option("--labels", type=click.Path(path_type=Path), help="Labels that `tokfilter label` made.")
@click.option("--rho", type=float, help="A token is important above this delta loss. Default: as --share asks for.")
@click.option("--share", type=float, default=0.15, show_default=True, help="Share of tokens called important.")
@click.option(
    "--objective", type=click.Choice(["threshold", "regression", "ranking"]), default="threshold", show_default=True
)
@click.option(
    "--summary", type=click.IntRange(min=0), default=0, show_default=True,
    help="Tell the class token of the whole image when tokens are dropped: an MLP of this width. 0: as the bundle.",
)  # fmt: skip
@click.option("--backbone-epochs", type=float, default=10.0, show_default=True)
@click.option("--filter-epochs", type=float, default=10.0, show_default=True)
@click.option("--finetune-epochs", type=float, default=5.0, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--backbone-lr", type=float, default=1e-3, show_default=True)
@click.option("--finetune-lr", type=float, default=3e-4, show_default=True)
@click.option("--distill", type=float, default=0.0, show_default=True, help="Weight of imitating the full model.")
@click.option("--zoom", type=float, default=1.0, show_default=True, help="Smallest share that augmentation shows.")
@click.option("--flip", type=float, default=0.0, show_default=True, help="Probability of a mirrored training image.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for checkpoints and labels. Default: OUTPUT.work")
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in the work folder.")
@click.option("--save-every", type=float, default=20.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def train(data: Path, output: Path, as_json: bool, **asked: Any) -> None:
    """Make model.pt from DATA: a folder with one subfolder per class, a .tar archive, or train and test of either.

    Fine-tuning alone is `--checkpoint model.pt --stages finetune`. Interrupted runs go on with --resume.
    """
    import json

    from tokfilter.train.loop import RunDir
    from tokfilter.train.pipeline import bundle_from_start
    from tokfilter.vit.bundle import save_bundle

    folder = asked["work"] or output.with_name(output.name + ".work")
    with progress_bar() as progress:
        splits = read_splits(data, asked["holdout"], progress, class_map=asked["class_map"])
        recipe = _recipe(len(splits.train), asked)
        start = start_from_options(
            asked["arch"],
            asked["arch_arg"],
            asked["checkpoint"],
            splits.train.class_names,
            pretrained=asked["pretrained"],
            new_head="backbone" in recipe.stages,
            seed=asked["seed"],
            preprocessing={"crop_pct": asked["crop_pct"]},
        )
        work = RunDir(folder, asked["resume"], asked["save_every"], progress)
        bundle = bundle_from_start(start, splits, recipe, work, asked["labels"])
        save_bundle(bundle, output)
    if as_json:
        click.echo(json.dumps({"schema": "tokfilter/training", "version": 1, "training": bundle.training}, indent=2))
        return
    from tokfilter.commands.tables import print_accuracy

    print_accuracy(bundle.training["accuracy"])
    click.echo(f"{output} written", err=True)


def _recipe(images: int, asked: dict[str, Any]) -> "TrainConfig":
    from tokfilter.artifacts.budget import keep_from_text
    from tokfilter.train.augmentation import Augmentation
    from tokfilter.train.config import TrainConfig
    from tokfilter.train.filter_training import FilterTraining
    from tokfilter.train.finetune import FineTuning
    from tokfilter.train.loop import TrainingPlan
    from tokfilter.vit.scorers import FilterConfig

    batch, look = asked["batch"], Augmentation(asked["zoom"], asked["flip"])

    def plan(epochs: float, count: int, **options: float) -> TrainingPlan:
        return TrainingPlan(max(1, round(epochs * max(1, count // batch))), batch, **options)

    labelled = min(images, asked["label_limit"] or images)
    return TrainConfig(
        stages=_stages(asked),
        keep=keep_from_text(asked["keep"]),
        label_limit=asked["label_limit"],
        label_chunk=asked["chunk"],
        seed=asked["seed"],
        filter_config=FilterConfig(summary=asked["summary"]),
        labels=label_config(asked),
        backbone=FineTuning(plan(asked["backbone_epochs"], images, lr=asked["backbone_lr"]), augmentation=look),
        filter=FilterTraining(plan(asked["filter_epochs"], labelled, lr=2e-3, weight_decay=0.01), asked["objective"]),
        finetune=FineTuning(
            plan(asked["finetune_epochs"], images, lr=asked["finetune_lr"]),
            distill=asked["distill"],
            augmentation=look,
        ),
    )


def _stages(asked: dict[str, Any]) -> tuple[str, ...]:
    """As typed, or without the backbone when a checkpoint brings one, and without labels when they are there."""
    if asked["stages"]:
        return tuple(part.strip() for part in asked["stages"].split(","))
    lacking = [stage for stage in _STAGES if stage != "backbone" or asked["checkpoint"] is None]
    return tuple(stage for stage in lacking if stage != "label" or asked["labels"] is None)
