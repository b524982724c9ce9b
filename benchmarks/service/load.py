"""Load test of the service: errors, latency, refusals and memory when more requests arrive than it can answer.

``python -m tokfilter.benchmarks service-load out/`` starts the service on a free port of the loopback interface and
saturates it for ten minutes: half of them in a closed loop, half in an open loop at twice the rate that the closed loop
reached. Every answer is compared with the session's own. The service is ended with SIGTERM, and the result is written
to ``benchmarks/results/service.json`` (schema: ``benchmarks/schemas/service.json``).
"""

import asyncio
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.request import urlopen

import click
import numpy as np
from PIL import Image

from tokfilter.benchmarks.options import (
    command_line,
    goal_lines,
    json_option,
    output_option,
    publish,
    threads_option,
)
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.service.clients import Sent, Target, closed_loop, open_loop
from tokfilter.benchmarks.service.process import resident_bytes, serving
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import PERCENTILE_RULE, latency_from_samples
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.service.body import input_from_body
from tokfilter.runtime.service.engine import engine_from_directory
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["document_from_load", "queries_for"]

_WINDOW_S: Final = 10.0
_SAMPLE_S: Final = 2.0
_WARM_UP: Final = 0.2
"""Fraction of a run that is not used for the memory slope: thread pools and arenas grow first."""
_FLAT: Final = 0.02
"""Largest growth of memory, as a fraction of it, that counts as none."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=2), default=600.0, show_default=True)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Requests that the service admits at a time.",
)
@click.option(
    "--clients", type=click.IntRange(min=1), default=64, show_default=True, help="Clients of the closed loop."
)
@threads_option(1, "Of ONNX Runtime.")
@output_option(RESULTS / "service.json")
@json_option
def main(directory: Path, seconds: float, queue: int, clients: int, threads: int, output: Path, as_json: bool) -> None:
    """Load the service with the export DIRECTORY; measure latency, throughput, refusals and memory."""
    document = {**header("service", command_line()), **document_from_load(directory, seconds, queue, clients, threads)}
    publish(document, output, as_json, goal_lines(document["goals"]))


def document_from_load(directory: Path, seconds: float, queue: int, clients: int, threads: int = 1) -> dict[str, Any]:
    """Run the service under load. Raises EngineError if it does not start, and the errors of opening the engine."""
    queries, model = queries_for(directory, threads)
    before = conditions()
    with serving(directory, "--queue", queue, "--threads", threads) as running:
        target = Target(f"{running.url}/classify", queries)
        phases, memory = asyncio.run(_phases(target, running.process.pid, seconds, clients))
        with urlopen(f"{running.url}/metrics") as response:
            metrics = response.read().decode()
        code = running.stop()
    (closed, opened), batch = phases, _mean_batch(metrics)
    document = {
        "model": model,
        "settings": {"queue": queue, "threads": threads, "percentile_rule": PERCENTILE_RULE, "window_s": _WINDOW_S},
        "conditions": {"before": before, "after": conditions()},
        "notes": ["service and clients share the machine's cores"],
        "phases": [
            {"loop": "closed", "clients": clients, **_phase(closed[0], closed[1], queue, batch)},
            {"loop": "open", "rate_per_s": opened[2], **_phase(opened[0], opened[1], queue, batch)},
        ],
        "mean_batch": batch,
        "memory": _memory(memory),
        "exit_code": code,
    }
    return {**document, "goals": _goals(document)}


def queries_for(
    directory: Path, threads: int, images: int = 24
) -> tuple[list[tuple[bytes, int, float]], dict[str, Any]]:
    """JPEG files at three budgets with the session's score of each, and the facts of the model."""
    generator = np.random.default_rng(0)
    with engine_from_directory(directory, SessionOptions(threads=threads)) as engine:
        card, budgets = engine.model_file.manifest.model, engine.session.budgets
        card.require_classifier("the load of the service")
        sizes = sorted({budgets.default, max(2, budgets.num_patches // 4), max(2, budgets.num_patches * 3 // 4)})
        queries = []
        for number in range(images):
            body, tokens = _photo(generator), sizes[number % len(sizes)]
            pixels = input_from_body(body, engine.preprocess, 10**7)
            (probabilities,) = asyncio.run(engine.outputs([pixels], tokens))
            queries.append((body, tokens, float(probabilities.max())))
    shape = list(card.input_size)
    return queries, {"architecture": card.architecture, "input_size": shape, "macs": card.macs, "budgets": sizes}


def _photo(generator: np.random.Generator) -> bytes:
    """A JPEG file of 320 x 240 coloured clouds."""
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(file, format="JPEG")
    return file.getvalue()


async def _phases(target: Target, pid: int, seconds: float, clients: int) -> Any:
    memory: list[tuple[float, int]] = []
    watcher = asyncio.create_task(_watch(pid, memory))
    half = seconds / 2
    closed = await closed_loop(target, clients, half)
    rate = 2 * len(closed.answered) / half
    opened = await open_loop(target, rate, half)
    if watcher.done():
        watcher.result()
    watcher.cancel()
    return ((closed, half), (opened, half, rate)), memory


async def _watch(pid: int, memory: list[tuple[float, int]]) -> None:
    begin = perf_counter()
    while True:
        memory.append((perf_counter() - begin, resident_bytes(pid)))
        await asyncio.sleep(_SAMPLE_S)


def _phase(sent: Sent, seconds: float, queue: int, batch: float) -> dict[str, Any]:
    windows = list(_windows(sent, seconds))
    slowest = min((window["answered_per_s"] for window in windows), default=0.0)
    return {
        "seconds": seconds,
        "answered": len(sent.answered),
        "refused": len(sent.refused),
        "errors": dict(sent.errors),
        "answered_per_s": len(sent.answered) / seconds,
        "latency_ms": asdict(latency_from_samples([ms for _, ms in sent.answered])) if sent.answered else None,
        "refusal_ms": asdict(latency_from_samples([ms for _, ms in sent.refused])) if sent.refused else None,
        # Little's law: mean latency while the queue is always full.
        "full_house_ms": 1e3 * queue / slowest if slowest else None,
        # Every batch has the oldest request, so a request waits for at most as many batches as the queue has places,
        # and for the running one.
        "bound_ms": 1e3 * (queue + 1) * batch / slowest if slowest else None,
        "windows": windows,
    }


def _windows(sent: Sent, seconds: float) -> Iterator[dict[str, float]]:
    width = min(_WINDOW_S, seconds)
    for number in range(int(seconds // width)):
        inside = [ms for at, ms in sent.answered if number * width <= at < (number + 1) * width]
        refused = sum(number * width <= at < (number + 1) * width for at, _ in sent.refused)
        p99 = latency_from_samples(inside).p99 if inside else 0.0
        yield {
            "from_s": number * width,
            "answered_per_s": len(inside) / width,
            "refused_per_s": refused / width,
            "p99_ms": p99,
        }


def _mean_batch(metrics: str) -> float:
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("tokfilter_batch_images_"))
    return float(values["tokfilter_batch_images_sum"]) / max(1.0, float(values["tokfilter_batch_images_count"]))


def _memory(samples: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Resident memory over time, and its least-squares slope after the warm-up."""
    after_warm_up = samples[int(len(samples) * _WARM_UP) :]
    seconds, values = np.array(after_warm_up, dtype=np.float64).T
    slope = float(np.polyfit(seconds, values, 1)[0]) if len(after_warm_up) > 1 else 0.0
    return {
        "samples": [[round(second, 1), value] for second, value in samples],
        "judged_from_s": float(seconds[0]),
        "slope_bytes_per_s": slope,
        "growth_bytes": slope * float(seconds[-1] - seconds[0]),
        "mean_bytes": float(values.mean()),
    }


def _goals(document: dict[str, Any]) -> dict[str, Any]:
    phases, memory = document["phases"], document["memory"]
    errors = sum(sum(phase["errors"].values()) for phase in phases)
    growth = memory["growth_bytes"] / memory["mean_bytes"]
    bounded = [phase for phase in phases if phase["latency_ms"] and phase["latency_ms"]["p99"] <= phase["bound_ms"]]
    refused = [phase["refused"] for phase in phases]
    return {
        "no error": {"reached": errors == 0 and document["exit_code"] == 0, "found": f"{errors} errors"},
        "no growth of memory": {"reached": growth <= _FLAT, "found": f"{growth:+.2%} of {memory['mean_bytes']:.3g} B"},
        "p99 bounded by the queue": {
            "reached": len(bounded) == len(phases),
            "found": ", ".join(
                f"{phase['loop']} {phase['latency_ms']['p99']:.0f} of {phase['bound_ms']:.0f} ms "
                f"(mean with a full queue {phase['full_house_ms']:.0f})"
                for phase in phases
                if phase["latency_ms"]
            ),
        },
        "overload is refused": {"reached": all(refused), "found": f"{sum(refused)} times 503"},
    }
