"""cpu_engines.json: engines and precisions on this CPU, full and half of the tokens, measured in the same rounds.

``python -m tokfilter.benchmarks cpu-engines``: PyTorch eager in fp32 with every token, ONNX Runtime in fp32 and int8,
OpenVINO in fp32, bf16 and int8, compiled for each batch and budget, at batch 1 and 8. Outputs are compared with the
golden tensors before anything is timed. An engine that cannot run here is listed with the reason.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from PIL import Image

from tokfilter.artifacts.manifest import Runtime
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.errors import DataError, TokfilterError
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.runtime.verification import verdicts

__all__ = ["BATCHES", "ENGINES", "document_from_export", "main"]

ARCHITECTURE: Final = "deit_small_patch16_224"
BATCHES: Final = (1, 8)
KEEP: Final = 0.5
ENGINES: Final[tuple[tuple[Runtime, str], ...]] = (
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("openvino", "int8-bf16"),
)
"""Runtime and precision; the first is what the others are compared with."""

_BASELINE: Final = "torch-eager"
_EFFICIENCY: Final = {1: 0.90, 8: 0.97}
"""Batch size -> smallest accepted speed-up over the MAC ratio, at half of the tokens."""

Log = Callable[[str], None]
Rows = Sequence[Mapping[str, Any]]


def document_from_export(
    directory: Path,
    threads: int,
    config: BenchConfig,
    command: str,
    bundle: Path | None = None,
    log: Log = lambda _: None,
) -> dict[str, Any]:
    """Measure every engine that runs here (``schemas/cpu-engines.json``).

    directory: an export
    bundle: model.pt for PyTorch; None looks for it in the directory and beside it
    Raises DataError, EngineError, VerificationError, where the first engine or PyTorch does not run.
    """
    where = None if bundle is None else str(bundle)
    first, *others = (
        SessionOptions(runtime, precision, threads=threads, bundle=where, fixed_shapes=True)
        for runtime, precision in ENGINES
    )
    absent, further = [], []
    for options in others:
        log(f"{options.runtime} {options.precision}: compared with the golden tensors")
        reason = _reason(directory, options)
        if reason:
            absent.append({"engine": options.runtime, "precision": options.precision, "reason": reason})
        else:
            further.append(options)
    found = compare(
        directory,
        BATCHES,
        [1.0, KEEP],
        first,
        config,
        lambda what, part: log(f"{what}: {part:.0%}"),
        against=[_BASELINE],
        further=further,
    )
    engines = [{"settings": found["settings"], "rows": found["rows"]}, *found.get("engines", [])]
    rows = [_row(engine["settings"], row) for engine in engines for row in engine["rows"]]
    return {
        **header("cpu-engines", command),
        "conditions": found["conditions"],
        "model": found["model"],
        "settings": {"threads": threads, **asdict(config), "order": found["settings"]["order"]},
        "verification": found["verification"],
        "baseline": [_baseline(row) for row in found["against"]],
        "rows": rows,
        "absent": absent,
        "figures": _figures(rows),
    }


def _reason(directory: Path, options: SessionOptions) -> str:
    """Why an engine cannot be measured here; empty where it can."""
    try:
        for _ in verdicts(directory, options, BATCHES):
            pass
    except TokfilterError as error:
        return str(error).replace(f"{directory}/", "")  # published documents have no folders of this machine
    return ""


def _baseline(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("engine", "batch", "latency_ms", "images_per_s", "warnings")
    return {name: row[name] for name in kept}


def _row(settings: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("batch", "tokens", "latency_ms", "images_per_s", "speedup", "mac_ratio", "efficiency", "warnings")
    return {
        "engine": settings["engine"],
        "precision": settings["precision"],
        **{name: row[name] for name in kept},
        "over_first": row.get("over_first"),
        "over_baseline": row["best_other"]["speedup"],
    }


def _figures(rows: Rows) -> list[dict[str, Any]]:
    """The figures to reach. A measured value is None where the engine was not measured."""
    half = "half of the tokens"
    found = []
    for batch in BATCHES:
        name = f"best engine, {half}, over PyTorch eager fp32 with every token, batch {batch}"
        filtered = [row for row in rows if row["batch"] == batch and row["speedup"] is not None]
        found.append(_figure(name, 8.0, max((row["over_baseline"]["value"] for row in filtered), default=None)))
    for what, filtering in (("every token", False), (half, True)):
        row = _find(rows, "openvino", "bf16", 8, filtering)
        found.append(_figure(f"OpenVINO bf16 over ONNX Runtime fp32, {what}, batch 8", 1.7, _over_first(row)))
    for engine, least in (("onnx", 1.5), ("openvino", 2.2)):
        row = _find(rows, engine, "int8", 8, True)
        found.append(_figure(f"{engine} int8 over ONNX Runtime fp32, {half}, batch 8", least, _over_first(row)))
    for engine, precision in ENGINES:
        for batch, least in _EFFICIENCY.items():
            row = _find(rows, engine, precision, batch, True)
            name = f"{engine} {precision}: speed-up over the MAC ratio, {half}, batch {batch}"
            found.append(_figure(name, least, None if row is None else row["efficiency"]))
    return found


def _figure(name: str, least: float, measured: float | None) -> dict[str, Any]:
    met = None if measured is None else measured >= least
    return {"name": name, "measured": measured, "wanted": f">= {least:g}", "met": met}


def _find(rows: Rows, engine: str, precision: str, batch: int, filtered: bool) -> Mapping[str, Any] | None:
    for row in rows:
        same = (row["engine"], row["precision"], row["batch"]) == (engine, precision, batch)
        if same and (row["speedup"] is not None) == filtered:
            return row
    return None


def _over_first(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None or row["over_first"] is None else float(row["over_first"]["value"])


@contextmanager
def _random_export(architecture: str, log: Log) -> Iterator[tuple[Path, Path]]:
    """Yield an export of a model with random weights, with model.pt beside it: speed does not depend on the weights."""
    from tokfilter.benchmarks.runtime_figures import random_bundle
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle
    from tokfilter.export.quantize.images import LEAST_CALIBRATION

    with tempfile.TemporaryDirectory(prefix="tokfilter-engines-") as folder:
        log(f"export of {architecture} with random weights, in fp32 and int8")
        bundle, directory, pictures = (Path(folder) / name for name in ("model.pt", "out", "pictures"))
        random_bundle(architecture, bundle)
        _random_pictures(pictures, LEAST_CALIBRATION)
        # Top-1 of random weights is of no use as a gate. What is timed is compared with the golden tensors before.
        export_bundle(bundle, directory, ExportOptions(precisions=("fp32", "int8"), calibrate=pictures, verify=False))
        yield directory, bundle


def _random_pictures(folder: Path, least: int) -> None:
    """Pictures for the calibration of int8, as few as it takes, and two for its gate."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for place in range(least + 2):
        pixels = generator.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")


@click.command("cpu-engines")
@click.option("--architecture", default=ARCHITECTURE, show_default=True, help="timm model with random weights.")
@click.option(
    "--export",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Measure this export instead, with its int8 graphs where it has them.",
)
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its model.pt.")
@threads_option(2, "Of every engine.")
@click.option("--duration", type=click.FloatRange(min=0.01), default=3.0, show_default=True, help="Seconds per row.")
@output_option("cpu_engines.json")
@json_option
def main(
    architecture: str,
    directory: Path | None,
    bundle: Path | None,
    threads: int,
    duration: float,
    output: Path,
    as_json: bool,
) -> None:
    """Measure engines and precisions on this CPU. Run nothing else on the machine meanwhile."""
    if bundle is not None and directory is None:
        raise DataError("--bundle belongs to an export: give --export DIRECTORY too.")
    config = BenchConfig.of_duration(duration, min(0.5, duration), 0.15)

    def log(text: str) -> None:
        click.echo(text, err=True)

    if directory is not None:
        document = document_from_export(directory, threads, config, command_line(), bundle, log)
    else:
        with _random_export(architecture, log) as (made, weights):
            document = document_from_export(made, threads, config, command_line(), weights, log)
    publish(document, output, as_json, _lines(document))


def _lines(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"torch-eager fp32      batch {row['batch']:2}  every token  {row['latency_ms']['median']:8.1f} ms"
        for row in document["baseline"]
    ]
    for row in document["rows"]:
        name = f"{row['engine']} {row['precision']}"
        over = row["over_first"]["value"] if row["over_first"] else 1.0
        lines.append(
            f"{name:20}  batch {row['batch']:2}  {row['tokens']:4} tokens  {row['latency_ms']['median']:8.1f} ms  "
            f"{over:5.2f} of ONNX Runtime fp32  {row['over_baseline']['value']:6.2f} of PyTorch eager with every token"
        )
    lines += [f"{row['engine']} {row['precision']}: not measured: {row['reason']}" for row in document["absent"]]
    marks = {True: "✓", False: "✗", None: "–"}
    for figure in document["figures"]:
        value = "not measured" if figure["measured"] is None else f"{figure['measured']:.2f}"
        lines.append(f"{marks[figure['met']]} {value:>12}  wanted {figure['wanted']:<8} {figure['name']}")
    return lines
