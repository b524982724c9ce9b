"""The figures that this project promises of its runtime, taken in one command on a quiet machine:

    python -m tokfilter.benchmarks.runtime_figures [--threads 2] [--duration 10] [--part tune] [-o figures.json]

``deit_small_patch16_224`` with random weights, half the tokens, ONNX Runtime on the CPU: measured speed-up against what
multiply-accumulates predict, agreement of two comparisons, cost of the harness, and `tokfilter tune` against a fresh
measurement.
"""

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.golden import golden_of
from tokfilter.errors import BudgetError, DataError
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.comparison.compare import QUICK, Plan, compare
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.runtime.measure.statistics import Interval
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.tuning.goals import Goal
from tokfilter.runtime.tuning.tune import tune
from tokfilter.vit.backbone import Architecture, create_backbone
from tokfilter.vit.bundle import Bundle, Preprocessing, save_bundle, weights_from_model
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import FilterConfig

ARCHITECTURE: Final = "deit_small_patch16_224"
_KEEP: Final = 0.5
_REACHED: Final = {8: 0.97, 1: 0.92}
"""Batch -> least share of the multiply-accumulate ratio that the measured speed-up reaches."""

PARTS: Final = ("speed", "harness", "tune")
_GOALS: Final = (0.85, 0.7, 0.55)
"""Latency goals of `tune`, as shares of the full model's latency."""


@dataclass(frozen=True)
class Figure:
    """One promise: what was measured, what was wanted, whether it was reached."""

    name: str
    measured: float
    wanted: str
    reached: bool
    note: str = ""


def random_bundle(architecture: str, path: Path, seed: int = 0) -> None:
    """Write a bundle with random weights: speed does not depend on what a model knows."""
    torch.manual_seed(seed)
    model = FilteredViT(create_backbone(Architecture(architecture)), keep=_KEEP).eval()
    height, width = model.backbone.patch_embed.img_size
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    backbone, scorer = weights_from_model(model)
    normalisation = Preprocessing((3, height, width), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    golden = golden_from_model(model, images, [0.7, _KEEP, 0.25])
    record = {"data": "none: random weights", "seeds": [seed]}
    save_bundle(
        Bundle(Architecture(architecture), backbone, FilterConfig(), scorer, _KEEP, normalisation, [], golden, record),
        path,
    )


def speed(directory: Path, options: SessionOptions, plan: Plan) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Speed-up at half the tokens against the multiply-accumulate ratio, twice, and whether the two agree."""
    documents = [compare(directory, sorted(_REACHED), [_KEEP], options, plan) for _ in range(2)]
    runs = [{row["batch"]: row for row in d["rows"] if row["role"] == "filtered"} for d in documents]
    figures = []
    for batch, least in _REACHED.items():
        shares = [run[batch]["reached"] for run in runs]
        one, two = (Interval(**run[batch]["speedup"]) for run in runs)
        name = f"batch {batch}: measured speed-up over the multiply-accumulate ratio"
        figures.append(Figure(f"{name}, lower of two runs", min(shares), f">= {least}", min(shares) >= least))
        gap = max(one.low, two.low) - min(one.high, two.high)
        figures.append(Figure(f"batch {batch}: gap between two runs' intervals", gap, "<= 0", one.overlaps(two)))
    return figures, documents


def harness(directory: Path, options: SessionOptions, queries: int = 400) -> Figure:
    """What a session adds to the engine's own call at batch 1, as a share of 20 ms: pairs of calls, in turn first."""
    with open_session(directory, options=options) as session:
        assert isinstance(session, OnnxRuntimeSession)
        images, engine = golden_of(session.model_file.directory, session.model_file.manifest).tiled(1), session._session
        slots = {
            spec.name: np.zeros(1, np.int32) for spec in session.inputs[1:]
        }  # few tokens: a short call, little noise
        calls = (lambda: engine.run(None, {"images": images, **slots}), lambda: session.run(images, 1))
        seconds = np.empty((queries, 2))
        for query in range(queries):
            for which in (query % 2, 1 - query % 2):
                start = perf_counter()
                calls[which]()
                seconds[query, which] = perf_counter() - start
    added = float(np.median(seconds[:, 1] - seconds[:, 0]))
    return Figure("harness at batch 1, as a share of 20 ms", added / 0.02, "<= 0.01", added <= 0.0002)


def tuned(directory: Path, options: SessionOptions, plan: Plan) -> list[Figure]:
    """Whether the budget chosen for a latency keeps it within 5 % when measured in new processes."""
    figures = []
    for share in _GOALS:
        (full,) = compare(directory, [1], [1.0], options, QUICK)["rows"]
        goal = share * full["latency_ms"]["median"]
        try:
            document = tune(directory, Goal("latency", goal), 1, options)
        except BudgetError as error:  # a figure that was not reached
            figures.append(Figure(f"tune --latency-ms {goal:.1f}: {error}", 0.0, "0.95 to 1.05", False))
            continue
        figures.append(_held(directory, options, plan, goal, document))
    return figures


def _held(directory: Path, options: SessionOptions, plan: Plan, goal: float, document: dict[str, Any]) -> Figure:
    """A tuned budget measured afresh."""
    chosen, tuning_ms = document["choice"]["tokens"], document["pace"]["last_ms"]
    rows = compare(directory, [1], [chosen], options, plan)["rows"]
    medians = {row["tokens"]: row["latency_ms"]["median"] for row in rows}
    ratio, full_ms = medians[chosen] / goal, medians[max(medians)]
    name = f"tune --latency-ms {goal:.1f}: {chosen} tokens, fresh latency over the goal"
    note = f"the full model took {tuning_ms:.1f} ms at the end of tuning and {full_ms:.1f} ms afresh"
    return Figure(name, ratio, "0.95 to 1.05", 0.95 <= ratio <= 1.05, note)


def take(
    architecture: str, threads: int, duration: float, parts: Sequence[str], said: Callable[[Sequence[Figure]], None]
) -> dict[str, Any]:
    """Take figures part by part; each part is told as soon as it is known."""
    options, plan = SessionOptions(threads=threads), Plan(duration)
    taken: dict[str, Any] = {"figures": [], "comparisons": [], "conditions": {}}
    with tempfile.TemporaryDirectory(prefix="tokfilter-figures-") as folder:
        bundle, directory = Path(folder) / "model.pt", Path(folder) / "out"
        random_bundle(architecture, bundle)
        export_bundle(bundle, directory, ExportOptions(keeps=(_KEEP,)))
        for part in parts:
            before = conditions()
            found: list[Figure] = []
            if part == "speed":
                found, taken["comparisons"] = speed(directory, options, plan)
            elif part == "harness":
                found = [harness(directory, options)]
            else:
                found = tuned(directory, options, plan)
            said(found)
            taken["figures"] += [{"part": part, **asdict(figure)} for figure in found]
            taken["conditions"][part] = {"before": before, "after": conditions()}
    command = shlex.join(["python", "-m", "tokfilter.benchmarks.runtime_figures", *sys.argv[1:]])
    return {**header("figures", command), "architecture": architecture, "threads": threads, **taken}


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the parts that a later one has not taken. Raises DataError for another machine or model."""
    for name in ("schema", "machine", "versions", "architecture", "threads"):
        if old.get(name) != new[name]:
            raise DataError(
                f"the parts that are there differ in {name}: choose another file with -o, or take all parts."
            )
    kept = [figure for figure in old["figures"] if figure["part"] not in new["conditions"]]
    return {
        **new,
        "figures": sorted([*kept, *new["figures"]], key=lambda figure: PARTS.index(figure["part"])),
        "comparisons": new["comparisons"] or old["comparisons"],
        "conditions": {**old["conditions"], **new["conditions"]},
    }


@click.command()
@click.option(
    "--architecture", default=ARCHITECTURE, show_default=True, help="Any that can be filtered, by timm's name."
)
@click.option("--threads", default=2, show_default=True)
@click.option("--duration", default=10.0, show_default=True, help="Measured seconds per row.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Take these, keep the file's others.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="figures.json", show_default=True)
def main(architecture: str, threads: int, duration: float, parts: Sequence[str], output: Path) -> None:
    """Take the runtime's figures; leave the machine alone meanwhile."""

    def say(figures: Sequence[Figure]) -> None:
        for figure in figures:
            mark = "✓" if figure.reached else "✗"
            click.echo(f"{mark} {figure.measured:8.4f}  wanted {figure.wanted:<14} {figure.name}")
            if figure.note:
                click.echo(f"{'':35}{figure.note}")

    document = take(architecture, threads, duration, parts or PARTS, say)
    if parts and output.exists():
        try:
            document = joined(json.loads(output.read_text(encoding="utf-8")), document)
        except DataError as error:
            write_json(output.with_suffix(".part.json"), document)  # minutes of a quiet machine are not thrown away
            raise click.ClickException(f"{error} These stand in {output.with_suffix('.part.json')}.") from error
    write_json(output, document)


if __name__ == "__main__":
    main()
