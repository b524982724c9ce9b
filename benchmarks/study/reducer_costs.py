"""reducers-deit-small.json: images per second of every reducer at a real size and equal multiply-accumulates.

    python -m tokfilter.benchmarks reducer-costs

The models of the study are small, so what a reducer adds to each block counts for more there. Here the model is
``deit_small_patch16_224``; its weights are random, because the time does not depend on them. Every row is compared
with its golden logits before it is timed (``baseline_speed.py``).
"""

import tempfile
from pathlib import Path
from typing import Final

import click

from tokfilter.artifacts.budget import keeps_from_text
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.runtime_figures import ARCHITECTURE, random_bundle
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig, document_from_bundle, line_of_row
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS

__all__ = ["main"]

_METHODS: Final = ("filter", *OTHER_REDUCERS)


@click.command()
@click.option("--architecture", default=ARCHITECTURE, show_default=True, help="timm model with random weights.")
@click.option("--keep", default="0.7,0.5", show_default=True, help="Budgets of the filter: ratios or counts of tokens.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images per call.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Blocks per row.")
@click.option("--seconds", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Length of a block.")
@threads_option(1, "Of each runtime.")
@output_option(RESULTS / "reducers-deit-small.json")
@json_option
def main(
    architecture: str, keep: str, batch: int, rounds: int, seconds: float, threads: int, output: Path, as_json: bool
) -> None:
    """Measure every reducer at the multiply-accumulates of the filtered model: ten minutes of an idle machine."""
    config = SpeedConfig(batch, rounds, seconds, threads, curve=False)
    with tempfile.TemporaryDirectory(prefix="tokfilter-reducers-") as scratch:
        bundle = Path(scratch) / "model.pt"
        random_bundle(architecture, bundle)
        document = document_from_bundle(
            bundle,
            keeps_from_text([keep]),
            config,
            command_line(),
            _METHODS,
            log=lambda text: click.echo(text, err=True),
        )
    document = {**document, "model": architecture}
    publish(document, output, as_json, map(line_of_row, document["rows"]))
