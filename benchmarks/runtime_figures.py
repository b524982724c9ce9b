"""Targets of the runtime, measured on an otherwise idle machine: ``python -m tokfilter.benchmarks runtime-figures``.

``deit_small_patch16_224`` with random weights, half the tokens, ONNX Runtime on the CPU: efficiency (measured speed-up
over the MAC ratio), agreement of two comparisons, overhead of a session, and `tokfilter tune` against a second
measurement.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.artifacts.golden import golden_of
from tokfilter.benchmarks.documents import with_current_keys
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.errors import BudgetError, DataError
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.rounds import QUICK, BenchConfig
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.runtime.measure.statistics import Interval
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.tuning.goals import Goal
from tokfilter.runtime.tuning.tune import tune
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.scorers import TokenFilter

ARCHITECTURE: Final = "deit_small_patch16_224"
_KEEP: Final = 0.5
_MIN_EFFICIENCY: Final = {8: 0.97, 1: 0.92}
"""Batch size -> smallest accepted ratio of the measured speed-up to the MAC ratio."""

PARTS: Final = ("speed", "harness", "tune")
_GOALS: Final = (0.85, 0.7, 0.55)
"""Latency goals of `tune`, as fractions of the full model's latency."""


@dataclass(frozen=True)
class Figure:
    """One target: the measured value, the accepted range, and whether the value lies within it."""

    name: str
    measured: float
    wanted: str
    met: bool
    note: str = ""


def random_bundle(architecture: str, path: Path, seed: int = 0) -> None:
    """Write a bundle with random weights: speed does not depend on their values."""
    torch.manual_seed(seed)
    model = FilteredViT(create_backbone(Architecture(architecture)), keep=_KEEP).eval()
    assert isinstance(model.scorer, TokenFilter)
    model.scorer.trained = True  # random weights on purpose: only speed is measured
    height, width = model.backbone.patch_embed.img_size
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1  # as of pixels
    backbone, scorer = weights_from_model(model)
    normalisation = Preprocessing((3, height, width), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    golden = golden_from_model(model, images, [0.7, _KEEP, 0.25])
    record = {"data": "none: random weights", "seeds": [seed]}
    save_bundle(
        Bundle(Architecture(architecture), backbone, FilterConfig(), scorer, _KEEP, normalisation, [], golden, record),
        path,
    )


def speed(directory: Path, options: SessionOptions, config: BenchConfig) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Efficiency at half the tokens in two comparisons, and whether the intervals of the two overlap."""
    documents = [compare(directory, sorted(_MIN_EFFICIENCY), [_KEEP], options, config) for _ in range(2)]
    runs = [{row["batch"]: row for row in d["rows"] if row["role"] == "filtered"} for d in documents]
    figures = []
    for batch, least in _MIN_EFFICIENCY.items():
        lower = min(run[batch]["efficiency"] for run in runs)
        one, two = (Interval(**run[batch]["speedup"]) for run in runs)
        name = f"batch {batch}: measured speed-up over the multiply-accumulate ratio"
        figures.append(Figure(f"{name}, lower of two runs", lower, f">= {least}", lower >= least))
        gap = max(one.low, two.low) - min(one.high, two.high)
        figures.append(Figure(f"batch {batch}: gap between two runs' intervals", gap, "<= 0", one.overlaps(two)))
    return figures, documents


def session_overhead(directory: Path, options: SessionOptions, queries: int = 400) -> Figure:
    """Time that a session adds to the engine's own call at batch 1, as a fraction of 20 ms, from paired calls."""
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
    return Figure("session overhead at batch 1, as a fraction of 20 ms", added / 0.02, "<= 0.01", added <= 0.0002)


def tuned(directory: Path, options: SessionOptions, config: BenchConfig) -> list[Figure]:
    """Whether the budget selected for a latency keeps it within 5 % when measured in new processes."""
    figures = []
    for fraction in _GOALS:
        (full,) = compare(directory, [1], [1.0], options, QUICK)["rows"]
        goal = fraction * full["latency_ms"]["median"]
        try:
            document = tune(directory, Goal("latency", goal), 1, options)
        except BudgetError as error:  # a missed target
            figures.append(Figure(f"tune --latency-ms {goal:.1f}: {error}", 0.0, "0.95 to 1.05", False))
            continue
        figures.append(_second_measurement(directory, options, config, goal, document))
    return figures


def _second_measurement(
    directory: Path, options: SessionOptions, config: BenchConfig, goal: float, document: dict[str, Any]
) -> Figure:
    """Latency of a tuned budget in new processes, over the goal."""
    chosen, tuning_ms = document["choice"]["tokens"], document["clock_drift"]["last_ms"]
    rows = compare(directory, [1], [chosen], options, config)["rows"]
    medians = {row["tokens"]: row["latency_ms"]["median"] for row in rows}
    ratio, full_ms = medians[chosen] / goal, medians[max(medians)]
    name = f"tune --latency-ms {goal:.1f}: {chosen} tokens, second latency over the goal"
    note = f"the full model took {tuning_ms:.1f} ms at the end of tuning and {full_ms:.1f} ms in the second measurement"
    return Figure(name, ratio, "0.95 to 1.05", 0.95 <= ratio <= 1.05, note)


def measure_figures(
    architecture: str,
    threads: int,
    duration: float,
    parts: Sequence[str],
    command: str,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the parts. ``progress`` is called with the name of each part."""
    options, config = SessionOptions(threads=threads), BenchConfig(duration)
    taken: dict[str, Any] = {"figures": [], "comparisons": [], "conditions": {}}
    with tempfile.TemporaryDirectory(prefix="tokfilter-figures-") as folder:
        bundle, directory = Path(folder) / "model.pt", Path(folder) / "out"
        random_bundle(architecture, bundle)
        export_bundle(bundle, directory, ExportOptions(keeps=(_KEEP,)))
        for part in parts:
            progress(part)
            before = conditions()
            found: list[Figure] = []
            if part == "speed":
                found, taken["comparisons"] = speed(directory, options, config)
            elif part == "harness":
                found = [session_overhead(directory, options)]
            else:
                found = tuned(directory, options, config)
            taken["figures"] += [{"part": part, **asdict(figure)} for figure in found]
            taken["conditions"][part] = {"before": before, "after": conditions()}
    return {**header("figures", command), "architecture": architecture, "threads": threads, **taken}


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new document with the old one's other parts. Raises DataError for another machine or model."""
    old = with_current_keys(old)
    for name in ("schema", "machine", "versions", "architecture", "threads"):
        if old.get(name) != new[name]:
            raise DataError(
                f"the parts in the file differ in {name}: choose another file with -o, or measure all parts."
            )
    kept = [figure for figure in old["figures"] if figure["part"] not in new["conditions"]]
    return {
        **new,
        "figures": sorted([*kept, *new["figures"]], key=lambda figure: PARTS.index(figure["part"])),
        "comparisons": new["comparisons"] or old["comparisons"],
        "conditions": {**old["conditions"], **new["conditions"]},
    }


@click.command("runtime-figures")
@click.option(
    "--architecture", default=ARCHITECTURE, show_default=True, help="Name in timm of a model that can be filtered."
)
@threads_option(2, "Threads of ONNX Runtime.")
@click.option("--duration", default=10.0, show_default=True, help="Measured seconds per row.")
@click.option(
    "--part", "parts", type=click.Choice(PARTS), multiple=True, help="Measure these, keep the others in the file."
)
@json_option
@output_option("figures.json")
def main(architecture: str, threads: int, duration: float, parts: Sequence[str], as_json: bool, output: Path) -> None:
    """Measure the targets of the runtime. Run nothing else on the machine meanwhile."""
    document = measure_figures(architecture, threads, duration, parts or PARTS, command_line(), _print_progress)
    if parts and output.exists():
        try:
            document = joined(json.loads(output.read_text(encoding="utf-8")), document)
        except DataError as error:
            write_json(output.with_suffix(".part.json"), document)  # the measurement took minutes: do not lose it
            raise DataError(
                f"{error} The measured parts were written to {output.with_suffix('.part.json')}."
            ) from error
    publish(document, output, as_json, [line for figure in document["figures"] for line in _lines(figure)])


def _print_progress(part: str) -> None:
    click.echo(f"measuring: {part}", err=True)


def _lines(figure: Mapping[str, Any]) -> list[str]:
    mark = "✓" if figure["met"] else "✗"
    line = f"{mark} {figure['measured']:8.4f}  accepted {figure['wanted']:<14} {figure['name']}"
    return [line, *([f"{'':37}{figure['note']}"] if figure["note"] else [])]
