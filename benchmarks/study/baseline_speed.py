"""baseline_speed.json: images per second of the full model, the filter, other reducers and baselines on this CPU.

``python -m tokfilter.benchmarks baseline-speed model.pt --keep 0.7,0.5,0.35,0.25``: PyTorch eager, and the exported
graphs in ONNX Runtime and OpenVINO, each runtime in a process of its own. In each round every row runs for one block,
in a random order, so that the ratio to the full model compares blocks that are close in time. A row is timed only after
its logits equal those of this process.
"""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from tokfilter.artifacts.budget import Keep, keeps_from_text, tokens_from_keep
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.study.baseline_models import (
    METHODS,
    FixedBudget,
    Row,
    graphs_from_model,
    macs_of_row,
    model_of,
    own_budgets,
)
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS, curve_budgets
from tokfilter.benchmarks.study.speed_worker import (
    RUNTIMES,
    PreparedRow,
    missing,
    open_row,
    seconds_per_call,
    worker_process,
)
from tokfilter.errors import ExportError, VerificationError
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.vit.bundle import load_bundle, model_from_bundle

__all__ = ["SpeedConfig", "document_from_bundle", "line_of_row", "main"]

Log = Callable[[str], None]


@dataclass(frozen=True)
class SpeedConfig:
    """How images per second are measured.

    batch: images per call
    rounds: blocks of each row; seconds: length of a block
    threads: of each runtime
    curve: also time reducers at budgets other than those of equal cost
    """

    batch: int = 32
    rounds: int = 9
    seconds: float = 0.5
    threads: int = 1
    curve: bool = True


def document_from_bundle(
    path: Path,
    keeps: Sequence[Keep],
    config: SpeedConfig,
    command: str,
    methods: Sequence[str] = METHODS,
    runtimes: Sequence[str] = tuple(RUNTIMES),
    log: Log = lambda _: None,
) -> dict[str, Any]:
    """Measure every method at every budget of the filter, other reducers on their curve, and the full model.

    ``tokens`` of a row is the method's own budget. Rows that are not possible are listed under ``absent`` with the
    reason: budgets of too little work for a reducer, graphs that cannot be exported, logits that differ, runtimes that
    are not installed. Raises BundleError, BudgetError.
    """
    num_patches = model_from_bundle(load_bundle(path)).num_patches
    budgets = sorted({tokens_from_keep(keep, num_patches) for keep in keeps} - {num_patches}, reverse=True)
    methods = ["full", *(method for method in methods if method != "full")]
    rows: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tokfilter-baselines-") as scratch:
        prepared = [entry for m in methods for entry in _prepare(m, path, Path(scratch), budgets, config, absent, log)]
        for runtime in runtimes:
            if reason := missing(runtime):
                absent += [_absent(runtime, method, 0, reason) for method in methods]
            else:
                rows += _runtime_rows(runtime, path, prepared, config, absent, log)
    settings = {**asdict(config), "interval": "95 %, bootstrap over rounds, for the speed-up; quartiles for the rate"}
    return {**header("baseline-speed", command), "settings": settings, "rows": rows, "absent": absent}


def _prepare(
    method: str,
    path: Path,
    folder: Path,
    budgets: list[int],
    config: SpeedConfig,
    absent: list[dict[str, Any]],
    log: Log,
) -> list[PreparedRow]:
    """Write golden logits and graphs of a method's rows; add the rows that are not possible to ``absent``."""
    log(f"{method}: golden logits and graphs")
    bundle = load_bundle(path)
    model = model_of(method, bundle)
    own, unreachable = own_budgets(method, model, bundle, budgets)
    absent += [_absent("", method, k, reason) for k, reason in unreachable.items()]
    curve = curve_budgets(model) if config.curve and method in OTHER_REDUCERS else []
    counts = {*own.values(), *curve}
    rows = [Row(method, k) for k in sorted(counts, reverse=True)]
    graphs: dict[Row, Path] = {}
    try:
        graphs = dict(graphs_from_model(method, model, rows, folder))
    except ExportError as error:
        absent += [_absent("onnxruntime, openvino", method, row.tokens, str(error)) for row in rows]
    images = bundle.golden.images[torch.arange(config.batch) % len(bundle.golden.images)]
    prepared = []
    for row in rows:
        with torch.inference_mode():
            logits = FixedBudget(model, row.tokens)(images)
        golden = folder / f"{row.name}.npz"
        np.savez(golden, images=images.numpy(), logits=logits.numpy())
        prepared.append(PreparedRow(row, macs_of_row(row, model, bundle), golden, graphs.get(row)))
    return prepared


def _absent(runtime: str, method: str, tokens: int, reason: str) -> dict[str, Any]:
    """A row that is not there. runtime: empty for all of them; tokens: a budget of the filter, 0 for all."""
    return {"runtime": runtime, "method": method, "tokens": tokens, "reason": reason}


def _runtime_rows(
    runtime: str,
    path: Path,
    prepared: Sequence[PreparedRow],
    config: SpeedConfig,
    absent: list[dict[str, Any]],
    log: Log,
) -> list[dict[str, Any]]:
    """Time every row of one runtime, round by round."""
    times_ms: dict[Row, list[float]] = {}
    with worker_process(runtime, path, config.threads) as process:
        differences = {}
        for entry in prepared:
            try:
                if runtime == "torch" or entry.graph:
                    differences[entry.row] = process.submit(open_row, entry).result()
            except VerificationError as error:
                absent.append(_absent(runtime, entry.row.method, entry.row.tokens, str(error)))
        order = list(differences)
        generator = random.Random(0)
        for done in range(config.rounds):
            generator.shuffle(order)
            for row in order:
                seconds = process.submit(seconds_per_call, row, config.seconds).result()
                times_ms.setdefault(row, []).append(seconds * 1e3 / config.batch)
            log(f"{runtime}: round {done + 1} of {config.rounds}")
    full = next(times_ms[row] for row in order if row.method == "full")
    timed = [entry for entry in prepared if entry.row in differences]
    return [_result(runtime, entry, times_ms[entry.row], full, differences[entry.row]) for entry in timed]


def _result(
    runtime: str, entry: PreparedRow, ms: Sequence[float], full_ms: Sequence[float], difference: float
) -> dict[str, Any]:
    low, middle, high = np.quantile([1e3 / value for value in ms], [0.25, 0.5, 0.75])
    return {
        "runtime": runtime,
        "method": entry.row.method,
        "tokens": entry.row.tokens,
        "macs": entry.macs,
        "images_per_s": float(middle),
        "low": float(low),
        "high": float(high),
        "speedup": asdict(speedup_from_pairs(full_ms, ms)),
        "largest_difference": difference,
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--keep", default="0.7,0.5,0.35,0.25", show_default=True, help="Budgets: ratios or counts of tokens.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Rows; the full model is always there.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per call.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Blocks per row.")
@click.option("--seconds", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Length of a block.")
@threads_option(1, "Of each runtime.")
@output_option("baseline_speed.json")
@json_option
def main(
    bundle: Path,
    keep: str,
    methods: str,
    batch: int,
    rounds: int,
    seconds: float,
    threads: int,
    output: Path,
    as_json: bool,
) -> None:
    """Measure images per second of every method on the weights of BUNDLE (model.pt)."""
    names = methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        raise click.BadParameter(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}", param_hint="--methods")
    document = document_from_bundle(
        bundle,
        keeps_from_text([keep]),
        SpeedConfig(batch, rounds, seconds, threads),
        command_line(),
        names,
        log=lambda text: click.echo(text, err=True),
    )
    publish(document, output, as_json, map(line_of_row, document["rows"]))


def line_of_row(row: Mapping[str, Any]) -> str:
    """A row of the document for the terminal."""
    return (
        f"{row['runtime']:12} {row['method']:10} {row['tokens']:4} tokens  {row['images_per_s']:8.1f} images/s  "
        f"{row['speedup']['value']:.2f} ({row['speedup']['low']:.2f} to {row['speedup']['high']:.2f}) of full"
    )
