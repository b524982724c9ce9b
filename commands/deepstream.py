"""tokfilter deepstream."""

from pathlib import Path

import click

from tokfilter.artifacts.budget import KEEP_HELP
from tokfilter.commands.json_output import json_option, print_json
from tokfilter.commands.session_options import BATCH


@click.command(epilog="Example: tokfilter deepstream out/ nvinfer/ --keep 0.5 --batch 4")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--keep", help=f"Budget: {KEEP_HELP}. Default: the model's own.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--batch", type=BATCH, default=1, show_default=True, help="Frames per batch.")
@click.option("--threshold", default=0.0, show_default=True, help="Classes below this probability are not reported.")
@click.option("--plugin", type=click.Path(path_type=Path), help="The self-registering plugin library (fused kernel).")
@click.option(
    "--strip-functions", is_flag=True, help="Leave out the function body: for the plugin on TensorRT before 10.7."
)
@json_option
def deepstream(
    directory: Path,
    target: Path,
    keep: str | None,
    precision: str,
    batch: int,
    threshold: float,
    plugin: Path | None,
    strip_functions: bool,
    as_json: bool,
) -> None:
    """Write a classifier for DeepStream's nvinfer from an export DIRECTORY.

    TARGET must not exist; graph, labels and config_infer.txt are written to it. Differences between nvinfer's
    preprocessing and the model's are corrected in the graph where that is possible, and printed where it is not.
    """
    from tokfilter.artifacts.budget import keep_from_text
    from tokfilter.export.serving.deepstream import CONFIG, DeepStreamOptions, deepstream_classifier

    budget = None if keep is None else keep_from_text(keep)
    options = DeepStreamOptions(budget, precision, batch, threshold, plugin, strip_functions)
    written = deepstream_classifier(directory, target, options)
    if as_json:
        found = {"config": target / CONFIG, "tokens": written.tokens, "differences": list(written.differences)}
        print_json("deepstream", found)
        return
    click.echo(f"{target / CONFIG}  {written.tokens} tokens")
    for message in written.differences:
        click.echo(f"differs from the model's preprocessing: {message}", err=True)
