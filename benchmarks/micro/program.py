"""``python -m tokfilter.benchmarks micro``: time of TokenSelect on this GPU, ours and the alternatives.

Microseconds and fraction of the memory bandwidth, with cold and with warm L2 cache, of our kernel (alone and as
TensorRT's plugin), TopK + Gather of TensorRT and of TensorRT-RTX, NVIDIA's plugin TopkLastDim + Gather, and torch. Each
method's result is compared with the reference before it is timed. A method that this machine cannot run is listed as
skipped, with the reason.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import click
import torch

from tokfilter.benchmarks.micro.cases import CASES, Measurement, TimingCase, table
from tokfilter.benchmarks.micro.methods import METHODS, Method, example
from tokfilter.benchmarks.micro.timer import Timer, same
from tokfilter.benchmarks.options import PROGRAM, command_line, json_option, output_option, publish
from tokfilter.errors import MissingDependencyError, VerificationError
from tokfilter.runtime.measure.machine import conditions, machine, versions

__all__ = ["SCHEMA", "gpu_report", "main"]

SCHEMA: Final = "tokfilter/gpu-report"
_VERSION: Final = 1


def gpu_report(
    cases: Iterable[TimingCase],
    library: Path | None,
    samples: int,
    say: Callable[[str], None] = lambda _: None,
    command: str = f"{PROGRAM} micro",
) -> dict[str, Any]:
    """Measure all methods on the cases and return the report.

    library: the plugin library; None is the output of ``tokfilter plugin build``
    samples: per method and cache state
    Raises MissingDependencyError without a GPU; VerificationError for a wrong result; EngineError.
    """
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "The micro-benchmark needs an NVIDIA GPU, and torch finds none: run it on a machine with one, or run "
            "kernel-figures, which needs no GPU."
        )
    timer = Timer(samples)
    peak, before = timer.copy_gb_s(), conditions()
    rows = []
    for case in cases:
        entries = [
            _measured(method, case, library, timer).as_dict(case, peak, timer.floor_us) for method in METHODS.values()
        ]
        rows.append({"case": case.name, "minimum_bytes": case.minimum_bytes, "methods": entries})
        say(table(rows[-1:]))
    return _document(rows, peak, timer.floor_us, samples, {"before": before, "after": conditions()}, command)


def _measured(method: Method, case: TimingCase, library: Path | None, timer: Timer) -> Measurement:
    """Compare a method's result, then time it; a method that cannot run here is skipped with the reason."""
    tokens, scores = example(case, "cuda")
    try:
        call = method.make(case, tokens, scores, library)
    except MissingDependencyError as error:
        return Measurement(method.name, skipped=str(error))
    found = call()
    torch.cuda.synchronize()
    if not same(found, method.expected(case, tokens, scores)):
        raise VerificationError(f"{method.name} differs from the reference on {case.name}, so it is not timed.")
    return Measurement(method.name, timer.warm_us(call), timer.cold_us(call))


def _document(
    rows: list[dict[str, Any]], peak: float, floor: float, samples: int, state: dict[str, Any], command: str
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": _VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "conditions": state,
        "settings": {
            "samples": samples,
            "copy_gb_s": peak,
            "floor_us": floor,
            "warm": "20 calls in one CUDA graph, the time of one of them",
            "cold": "one call in a CUDA graph after the L2 cache was overwritten, less floor_us",
        },
        "rows": rows,
    }


@click.command()
@click.option(
    "--plugin", type=click.Path(path_type=Path), help="Plugin library. Default: the output of `tokfilter plugin build`."
)
@click.option("--samples", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--case", "words", multiple=True, help="Only cases with this text in the name, e.g. 'batch 1,'. Repeatable."
)
@output_option("gpu-report.json")
@json_option
def main(plugin: Path | None, samples: int, words: Sequence[str], output: Path, as_json: bool) -> None:
    """Time TokenSelect on this GPU, our kernel and plugin against TensorRT, TensorRT-RTX and PyTorch.

    Each method's result is compared with the reference first. A method whose package is missing is listed as skipped.
    """
    cases = [case for case in CASES if all(word in case.name for word in words)]
    if not cases:
        raise click.UsageError(f"no case has {' and '.join(words)} in its name; one is {CASES[0].name!r}")
    report = gpu_report(cases, plugin, samples, lambda text: click.echo(text, err=as_json), command_line())
    publish(report, output, as_json, ())
