"""tokfilter tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.group import needs
from tokfilter.commands.json_output import echo_json
from tokfilter.commands.progress import command_line, progress_bar
from tokfilter.commands.session_options import (
    BATCH,
    batches_from_text,
    bounded_run,
    session_options,
    session_options_from,
)

if TYPE_CHECKING:
    from tokfilter.artifacts.manifest import Manifest
    from tokfilter.artifacts.split import Split
    from tokfilter.runtime.comparison.rounds import Progress
    from tokfilter.runtime.sessions import SessionOptions
    from tokfilter.runtime.tuning.goals import Goal


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--latency-ms", type=float, help="Goal: at most so many milliseconds per batch (median).")
@click.option("--speedup", type=float, help="Goal: at least so many times as fast as the full model.")
@click.option("--max-drop", type=float, help="Goal: at most so many points of top-1 lost; of embeddings, of recall@1.")
@click.option(
    "--accuracy", type=click.Path(path_type=Path), help="accuracy.json or similarity.json, from `tokfilter eval`."
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Images, one subfolder per class (of a model that gives embeddings also without); those that the bundle "
    "(--bundle) was trained on are left out.",
)
@click.option("--batch", type=BATCH, default=1, show_default=True, help="Images per batch.")
@click.option(
    "--model-batches",
    default="1,8",
    show_default=True,
    help="Further batch sizes that a few budgets are measured at, for the cost model; empty for none.",
)
@session_options
@click.option("--duration", type=float, default=1.0, show_default=True, help="Measured seconds per budget.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the curve.")
def tune(directory: Path, batch: int, as_json: bool, duration: float, **params: Any) -> None:
    """Select the budget of an export DIRECTORY that meets one goal, by measurements on this machine.

    The budget is written into the manifest and becomes the default of every session.
    """
    from tokfilter.artifacts.files import check_target
    from tokfilter.runtime.comparison.rounds import BenchConfig
    from tokfilter.runtime.measure.record import write_json
    from tokfilter.runtime.tuning.tune import tune as run

    options = session_options_from(params)
    others = batches_from_text("--model-batches", params["model_batches"]) if params["model_batches"].strip() else []
    config = BenchConfig.of_duration(duration, min(0.2, max(duration, 0.0)), 0.1)
    check_target(directory / "tune.json")
    names = ("latency_ms", "speedup", "max_drop", "accuracy", "images")
    with progress_bar() as progress:
        goal = _goal(directory, options, batch, progress, **{name: params[name] for name in names})
        with bounded_run(directory, [options], max([batch, *others])):
            document = run(directory, goal, batch, options, config, progress, command_line(), others)
    write_json(directory / "tune.json", document)
    if as_json:
        echo_json(document)
    else:
        from tokfilter.commands.tables import print_curve

        print_curve(document)


def _goal(
    directory: Path,
    options: "SessionOptions",
    batch: int,
    progress: "Progress",
    latency_ms: float | None,
    speedup: float | None,
    max_drop: float | None,
    accuracy: Path | None,
    images: Path | None,
) -> "Goal":
    from tokfilter.artifacts.manifest import load_manifest
    from tokfilter.runtime.tuning.goals import Goal, check_value
    from tokfilter.runtime.tuning.tune import check_batch

    if sum(value is not None for value in (latency_ms, speedup, max_drop)) != 1:
        raise click.UsageError("give exactly one goal: --latency-ms, --speedup or --max-drop.")
    check_batch(load_manifest(directory), options, batch)
    if latency_ms is not None:
        return Goal("latency", latency_ms)
    if speedup is not None:
        return Goal("speedup", speedup)
    if (accuracy is None) == (images is None):
        raise click.UsageError("--max-drop requires one of --accuracy and --images.")
    check_value("drop", (max_drop or 0.0) / 100)
    card = load_manifest(directory).model
    card.require_one_row("--max-drop")
    drops = _drops(directory, options, progress, accuracy, images)
    return Goal("drop", (max_drop or 0.0) / 100, drops, "recall@1" if card.embeds else "top-1")


def _drops(
    directory: Path, options: "SessionOptions", progress: "Progress", accuracy: Path | None, images: Path | None
) -> dict[int, float]:
    if accuracy is not None:
        needs("report")
        from tokfilter.artifacts.manifest import load_manifest
        from tokfilter.benchmarks.documents import accuracy_from_file, similarity_from_file
        from tokfilter.runtime.tuning.tune import drops_from_accuracy

        manifest = load_manifest(directory)
        read = similarity_from_file if manifest.model.embeds else accuracy_from_file
        return drops_from_accuracy(read(accuracy), manifest)
    assert images is not None
    return _measured_drops(directory, options, progress, images)


def _measured_drops(directory: Path, options: "SessionOptions", progress: "Progress", images: Path) -> dict[int, float]:
    """Loss of top-1, or of recall@1, on images that the model was not trained on, where that is known."""
    from tokfilter.artifacts.manifest import load_manifest
    from tokfilter.runtime.labelled import (
        IMAGES,
        drops_from_images,
        embedded_files,
        labelled_files,
        recall_drops,
        untrained_files,
    )
    from tokfilter.runtime.sessions import open_session
    from tokfilter.runtime.tuning.tune import tested_budgets

    manifest, skipped = load_manifest(directory), list[str]()
    embeds = manifest.model.embeds
    files = embedded_files(images) if embeds else labelled_files(images, manifest.model.class_names)
    split = _split(directory, manifest, options.bundle)
    if isinstance(split, str):
        click.echo(f"warning: {split}: all {len(files)} images are used, and some may be training images.", err=True)
    else:
        files = untrained_files(files, split, _warn, progress)

    def report(text: str) -> None:
        skipped.append(text)
        click.echo(text, err=True)

    with (
        bounded_run(directory, [options], IMAGES),
        open_session(directory, "full", options) as full,
        open_session(directory, "filtered", options) as filtered,
    ):
        budgets = tested_budgets(manifest, filtered.budgets)
        measure = recall_drops if embeds else drops_from_images
        drops = measure(full, filtered, manifest.model, files, budgets, report, progress)
    if skipped:
        click.echo(f"{len(skipped)} of {len(files)} images were left out because they are damaged", err=True)
    return drops


def _split(directory: Path, manifest: "Manifest", bundle: str | None) -> "Split | str":
    """Which images the exported model was trained on; else why that is not known.

    bundle: as the user gave it; else the one beside the export is taken
    Raises DataError, EngineError and BundleError for a bundle that the user gave and that is not that of this export.
    """
    from tokfilter.errors import DataError, EngineError
    from tokfilter.runtime.model_files import check_bundle, find_bundle

    try:
        path = find_bundle(directory, manifest, bundle)
        check_bundle(path, manifest)
    except (DataError, EngineError):
        if bundle is not None:
            raise
        return "the bundle that was exported is not beside the export; give it as --bundle model.pt"
    try:
        from tokfilter.vit.bundle import load_bundle

        found = load_bundle(path).split
    except ModuleNotFoundError as error:
        return f"{path} tells which images it was trained on, and the package {error.name} that reads it is missing"
    return f"{path} does not record which images it was trained on" if found is None else found


def _warn(text: str) -> None:
    click.echo(text, err=True)
