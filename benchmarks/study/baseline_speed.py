"""baseline_speed.json: images per second of the full model, the filter and every baseline, in PyTorch and ONNX Runtime.

``python -m tokfilter.benchmarks baseline-speed model.pt --keep 0.7,0.5,0.35,0.25``. Each method runs in a process of its
own, and no two run at once: in every round each row has its turn, in an order drawn anew, so that a ratio to the full
model compares neighbours in time. No row is timed before its logits equal those that this process computed.
"""

import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import numpy as np
import torch

from tokfilter.artifacts.budget import Keep, keeps_from_text, tokens_from_keep
from tokfilter.artifacts.compare import TOLERANCES, compare_logits
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.study.baseline_models import (
    METHODS,
    FixedBudget,
    Row,
    graphs_from_model,
    macs_of_row,
    model_of,
    rows_of,
)
from tokfilter.errors import ExportError, VerificationError
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.vit.bundle import load_bundle, model_from_bundle

__all__ = ["RUNTIMES", "Timing", "document_from_bundle"]

RUNTIMES: Final = ("torch", "onnxruntime")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """How long and how is measured.

    batch: images per call
    rounds: turns of each row; seconds: length of a turn
    threads: of either runtime
    """

    batch: int = 32
    rounds: int = 9
    seconds: float = 0.5
    threads: int = 1


def document_from_bundle(
    path: Path,
    keeps: Sequence[Keep],
    timing: Timing,
    command: str,
    methods: Sequence[str] = METHODS,
    runtimes: Sequence[str] = RUNTIMES,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure every row at every budget. The full model is always among them.

    Rows that cannot be are listed under ``absent`` with the reason: budgets that a baseline cannot reach, graphs that
    cannot be exported. Raises BundleError, BudgetError, VerificationError.
    """
    patches = model_from_bundle(load_bundle(path)).num_patches
    budgets = sorted({tokens_from_keep(keep, patches) for keep in keeps} - {patches}, reverse=True)
    methods = ["full", *(method for method in methods if method != "full")]
    rows: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tokfilter-baselines-") as scratch:
        prepared = {m: _prepare(m, path, Path(scratch), budgets, timing.batch, absent, say) for m in methods}
        for runtime in runtimes:
            rows += _runtime_rows(runtime, path, prepared, timing, say)
    settings = {**asdict(timing), "interval": "95 %, bootstrap over rounds, for the speed-up; quartiles for the rate"}
    return {**header("baseline-speed", command), "settings": settings, "rows": rows, "absent": absent}


@dataclass(frozen=True)
class _Prepared:
    """A row with its cost and its files: golden logits, and the graph where there is one."""

    row: Row
    macs: int
    golden: Path
    graph: Path | None


def _prepare(
    method: str, path: Path, folder: Path, budgets: list[int], batch: int, absent: list[dict[str, Any]], say: Say
) -> list[_Prepared]:
    say(f"{method}: golden logits and graphs")
    bundle = load_bundle(path)
    model = model_of(method, bundle)
    rows = rows_of(method, model, budgets)
    if method != "full":
        reason = f"costs more than the filter there; its smallest budget is {getattr(model, 'lowest', 1)} tokens"
        absent += [_absence(r, method, k, reason) for k in budgets if Row(method, k) not in rows for r in RUNTIMES]
    graphs: dict[Row, Path] = {}
    try:
        graphs = dict(graphs_from_model(method, model, rows, folder))
    except ExportError as error:
        absent += [_absence("onnxruntime", method, row.tokens, str(error)) for row in rows]
    images = bundle.golden.images[torch.arange(batch) % len(bundle.golden.images)]
    prepared = []
    for row in rows:
        with torch.inference_mode():
            logits = FixedBudget(model_of(method, bundle), row.tokens)(images)
        golden = folder / f"{row.name}.npz"
        np.savez(golden, images=images.numpy(), logits=logits.numpy())
        prepared.append(_Prepared(row, macs_of_row(row, model, bundle), golden, graphs.get(row)))
    return prepared


def _absence(runtime: str, method: str, tokens: int, reason: str) -> dict[str, Any]:
    return {"runtime": runtime, "method": method, "tokens": tokens, "reason": reason}


def _runtime_rows(
    runtime: str, path: Path, prepared: Mapping[str, list[_Prepared]], timing: Timing, say: Say
) -> list[dict[str, Any]]:
    found: dict[Row, list[float]] = {}
    entries = [entry for method in prepared.values() for entry in method if runtime == "torch" or entry.graph]
    with _processes({entry.row.method for entry in entries}, runtime, path, timing.threads) as processes:
        differences = {e.row: processes[e.row.method].submit(_open_row, e).result() for e in entries}
        order = [entry.row for entry in entries]
        generator = random.Random(0)
        for done in range(-1, timing.rounds):  # the first round warms up and does not count
            generator.shuffle(order)
            for row in order:
                spent = processes[row.method].submit(_turn, row, timing.seconds).result()
                if done >= 0:
                    found.setdefault(row, []).append(spent * 1e3 / timing.batch)
            say(f"{runtime}: round {done + 1} of {timing.rounds}")
    full = next(found[row] for row in order if row.method == "full")
    return [_result(runtime, entry, found[entry.row], full, differences[entry.row]) for entry in entries]


def _result(
    runtime: str, entry: _Prepared, ms: Sequence[float], full_ms: Sequence[float], difference: float
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


@contextmanager
def _processes(methods: set[str], runtime: str, path: Path, threads: int) -> Iterator[dict[str, ProcessPoolExecutor]]:
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        yield {
            method: stack.enter_context(ProcessPoolExecutor(1, spawn, _Engines.begin, (runtime, path, threads)))
            for method in sorted(methods)
        }


class _Engines:
    """What one child process runs: a call for each of its rows."""

    runtime: str
    path: Path
    threads: int
    calls: dict[Row, Callable[[], Any]]

    @classmethod
    def begin(cls, runtime: str, path: Path, threads: int) -> None:
        cls.runtime, cls.path, cls.threads, cls.calls = runtime, path, threads, {}
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # the golden logits are fp32


def _open_row(entry: _Prepared) -> float:
    """Make a row ready in this process. Returns the largest relative difference of a logit."""
    with np.load(entry.golden, allow_pickle=False) as arrays:
        images, expected = arrays["images"], arrays["logits"]
    call = _torch_call(entry, images) if _Engines.runtime == "torch" else _onnxruntime_call(entry, images)
    compared = compare_logits(np.asarray(call()), expected, TOLERANCES["fp32"])
    if compared.errors:
        raise VerificationError(
            f"{entry.row.name} in {_Engines.runtime} differs from its golden logits: {'; '.join(compared.errors)}; "
            "it is not timed."
        )
    _Engines.calls[entry.row] = call
    return compared.relative


def _torch_call(entry: _Prepared, images: Any) -> Callable[[], Any]:
    module = FixedBudget(model_of(entry.row.method, load_bundle(_Engines.path)), entry.row.tokens)
    tensor = torch.from_numpy(images)

    def call() -> Any:
        with torch.inference_mode():
            return module(tensor).numpy()

    return call


def _onnxruntime_call(entry: _Prepared, images: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = _Engines.threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(entry.graph), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"images": images})[0]


def _turn(row: Row, seconds: float) -> float:
    """Run a row for some time, at least once, after one call that brings caches back. Returns seconds per call."""
    call = _Engines.calls[row]
    call()
    begin, calls = perf_counter(), 0
    while calls == 0 or perf_counter() - begin < seconds:
        call()
        calls += 1
    return (perf_counter() - begin) / calls


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--keep", default="0.7,0.5,0.35,0.25", show_default=True, help="Budgets: ratios or counts of tokens.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Rows; the full model is always there.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per call.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Blocks per row.")
@click.option("--seconds", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Length of a block.")
@threads_option(1, "Of PyTorch and of ONNX Runtime.")
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
        Timing(batch, rounds, seconds, threads),
        command_line(),
        names,
        say=lambda text: click.echo(text, err=True),
    )
    lines = (
        f"{row['runtime']:12} {row['method']:10} {row['tokens']:4} tokens  {row['images_per_s']:8.1f} images/s  "
        f"{row['speedup']['value']:.2f} ({row['speedup']['low']:.2f} to {row['speedup']['high']:.2f}) of full"
        for row in document["rows"]
    )
    publish(document, output, as_json, lines)
