"""tokfilter train."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.artifacts.reducer import REDUCERS
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

if TYPE_CHECKING:
    from tokfilter.artifacts.bundle import Bundle
    from tokfilter.train.recipe import Recipe

_STAGES = ("backbone", "label", "filter", "finetune")


@click.command()
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("model.pt"), show_default=True,
    help="Bundle to write.",
)  # fmt: skip
@click.option(
    "--checkpoint", type=click.Path(path_type=Path),
    help="Start weights: a bundle, a folder of timm or transformers, or a state dict (.pt, .safetensors).",
)  # fmt: skip
@click.option("--pretrained", is_flag=True, help="Start with timm's published weights.")
@model_options
@click.option(
    "--reducer", type=click.Choice(list(REDUCERS)),
    help="What gets rid of tokens (docs/reducers.md). Others than the filter are fine-tuned with the backbone; their "
    "settings: --set reducer.stages=3,6,9. Default: the bundle's, else filter.",
)  # fmt: skip
@click.option(
    "--frozen-backbone", is_flag=True,
    help="Train no weight of the backbone: the filter and its global context alone, in minutes (docs/frozen.md).",
)  # fmt: skip
@click.option("--stages", help="Some of backbone,label,filter,finetune. Default: those that the start weights lack.")
@click.option("--keep", help=f"Default budget: {KEEP_HELP}. Default: the recipe's (0.5).")
@click.option("--epochs", type=float, help="Epochs of each stage. Default: the recipe's (10, 17 and 5).")
@click.option("--batch", type=int, help="Images per step. Default: the recipe's (64).")
@click.option("--labels", type=click.Path(path_type=Path), help="Folder of labels from `tokfilter label`.")
@recipe_options
@click.option("--print-recipe", is_flag=True, help="Print the recipe with all changes as TOML and exit.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Folder for checkpoints and labels. Default: OUTPUT.work"
)
@click.option("--resume", is_flag=True, help="Continue from the checkpoints in the run folder.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def train(data: Path | None, output: Path, print_recipe: bool, as_json: bool, **params: Any) -> None:
    """Train a token filter and write model.pt (a bundle).

    DATA is a folder with one subfolder per class, a .tar archive of it, webdataset shards (a folder of .tar archives
    with 0001.jpg and 0001.cls), or a folder with train and test of one of these. With --loss feature or kl, which need
    no class labels, also a folder of images.

    A model of your own: --checkpoint FOLDER with config.json and model.safetensors, as timm and transformers save them;
    or --arch NAME --checkpoint weights.safetensors. Fine-tuning alone: --checkpoint model.pt --stages finetune. All
    other settings are in the recipe: see --print-recipe, --recipe and --set.

    Several processes: torchrun --nproc-per-node 8 -m tokfilter.cli train DATA ... A batch counts the images of all.
    """
    if data is not None and not print_recipe:
        _check_output(output, params["overwrite"] or params["resume"])  # before torch is imported
    recipe = recipe_from_options(params["recipe"], params["settings"], _changes(params), params["frozen_backbone"])
    if print_recipe:
        from tokfilter.train.recipe_file import text_from_recipe

        click.echo(text_from_recipe(recipe), nl=False)
        return
    if data is None:
        raise click.UsageError("Missing argument 'DATA': a folder with one subfolder per class, or .tar archives.")
    bundle = _train(data, output, recipe, params)
    if bundle is None:
        return
    if as_json:
        print_json("training", {"training": bundle.training})
        return
    from tokfilter.commands.tables import print_accuracy, print_similarity

    if "similarity" in bundle.training:
        print_similarity(bundle.training["similarity"], bundle.golden.scores.shape[1])
    else:
        print_accuracy(_rows(bundle))
    click.echo(f"{output} written", err=True)


def _train(data: Path, output: Path, recipe: "Recipe", params: dict[str, Any]) -> "Bundle | None":
    """Write the bundle and return it; None in all processes of torchrun but the first, which writes.

    Everything but the images is checked before the first is read.
    """
    from tokfilter.artifacts.files import check_target
    from tokfilter.train.data import quiet
    from tokfilter.train.distributed import context_from_torchrun
    from tokfilter.train.loop import RunDir
    from tokfilter.train.pipeline import bundle_from_start, check_run
    from tokfilter.train.recipe import config_from_recipe
    from tokfilter.vit.bundle import save_bundle

    folder = params["run_dir"] or output.with_name(output.name + ".work")
    check_target(folder, folder=True)
    pixels = pixels_from_options(params, recipe)
    foreign = foreign_from_options(params["arch"], params["arch_arg"], params["checkpoint"], pixels)
    names = () if foreign is None else foreign.class_names
    labelled = recipe.loss == "cross-entropy"
    with context_from_torchrun() as processes, progress_bar() if processes.is_main else nullcontext(quiet) as progress:
        splits = listed_splits(data, recipe.data.holdout, params["class_map"], processes, names, need_classes=labelled)
        lacking = _lacking_stages(params, labelled)
        if recipe.frozen:
            lacking = tuple(stage for stage in lacking if stage != "backbone")
        start = start_from_options(
            params["arch"],
            params["arch_arg"],
            params["checkpoint"],
            splits.train.class_names if labelled else None,
            pretrained=params["pretrained"],
            new_head="backbone" in (recipe.stages or lacking),
            seed=recipe.seed,
            preprocessing=pixels,
            foreign=foreign,
            dist_context=processes,
        )
        reducer = recipe.reducer.config(start.reducer)
        if reducer.name != "filter":
            lacking = tuple(stage for stage in lacking if stage in ("backbone", "finetune"))
        check_run(start, config_from_recipe(recipe, len(splits.train), lacking, reducer), params["labels"])
        run_dir = RunDir(folder, params["resume"], recipe.save_seconds, progress, processes)
        with run_dir.locked():
            splits = checked_splits(splits, progress, processes)
            config = config_from_recipe(recipe, len(splits.train), lacking, reducer)
            bundle = bundle_from_start(start, splits, config, run_dir, params["labels"])
            if processes.is_main:
                _check_not_written_meanwhile(output, folder, params["overwrite"] or params["resume"])
                save_bundle(bundle, output)
        processes.barrier()
    return bundle if processes.is_main else None


def _rows(bundle: "Bundle") -> list[dict[str, Any]]:
    """Rows of the table: every token before fine-tuning, then each budget after it."""
    before = [
        {**row, "method": "full, before fine-tuning"} for row in bundle.training.get("accuracy_before_finetune", [])
    ]
    patches = bundle.golden.scores.shape[1]
    after = [{**row, "method": "full" if row["tokens"] == patches else "filter"} for row in bundle.training["accuracy"]]
    return before + after


def _check_output(output: Path, replace: bool) -> None:
    from tokfilter.artifacts.files import check_target

    if output.is_file() and not replace:
        raise click.UsageError(
            f"{output} exists already: --overwrite replaces it, -o writes another file, and --resume continues an "
            "interrupted run."
        )
    check_target(output)


def _check_not_written_meanwhile(output: Path, folder: Path, replace: bool) -> None:
    """Raise DataError where another run has written the output since this one began; its checkpoints stay."""
    from tokfilter.errors import DataError

    if output.exists() and not replace:
        raise DataError(
            f"{output} was written by another run meanwhile and is not overwritten. This run is complete in {folder}: "
            f"the same command with --resume --run-dir {folder} and another -o writes its bundle."
        )


def _changes(params: dict[str, Any]) -> dict[str, Any]:
    """Options that change the recipe, by the names that they have there."""
    stages = params["stages"]
    changes = {
        "stages": None if stages is None else [part.strip() for part in stages.split(",")],
        "keep": params["keep"],
        "seed": params["seed"],
    }
    changes |= {"loss": params["loss"], "reducer.name": params["reducer"]}
    for stage in ("backbone", "filter", "finetune"):
        changes |= {f"{stage}.epochs": params["epochs"], f"{stage}.batch": params["batch"]}
    return changes


def _lacking_stages(params: dict[str, Any], labelled: bool) -> tuple[str, ...]:
    """All stages, but no backbone when there is a checkpoint or no class label, and no labels when there are some."""
    given = {"backbone": params["checkpoint"] if labelled else "its own weights", "label": params["labels"]}
    return tuple(stage for stage in _STAGES if given.get(stage) is None)
