"""Hostile load on the service: silent and slow connections, endless heads, large pictures and bodies, saturation.

``python -m tokfilter.benchmarks service-abuse out/`` starts the service on a free port of the loopback interface for
each step, and writes ``benchmarks/results/service_abuse.json`` (schema: ``benchmarks/schemas/service_abuse.json``).
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.benchmarks.options import command_line, goal_lines, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.service.abuse_steps import (
    CLIENTS,
    HEAD_BYTES,
    bodies_step,
    connections_step,
    descriptors_step,
    heads_step,
    pictures_step,
    saturation_step,
)
from tokfilter.benchmarks.service.clients import Target
from tokfilter.benchmarks.service.load import queries_for
from tokfilter.benchmarks.service.process import serving
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.record import header

__all__ = ["document_from_abuse", "main"]

_LOST: Final = 0.10
"""Largest loss of throughput beside silent and slow connections."""
_STALL_MS: Final = 1000.0
_KEPT: Final = 1.10
"""Largest ratio of memory after large bodies to memory before them."""
_STEADY: Final = 0.05
"""Largest change of memory under saturation, from the second minute on."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Quiet and attacked windows.")
@click.option("--window", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="Seconds of a window.")
@click.option("--seconds", type=click.FloatRange(min=2), default=600.0, show_default=True, help="Of saturation.")
@click.option(
    "--silent", type=click.IntRange(min=0), default=1024, show_default=True, help="Connections without a byte."
)
@click.option(
    "--slow", type=click.IntRange(min=0), default=1000, show_default=True, help="Connections with half a head."
)
@threads_option(1, "Of the engine.")
@output_option(RESULTS / "service_abuse.json")
@json_option
def main(
    directory: Path,
    pairs: int,
    window: float,
    seconds: float,
    silent: int,
    slow: int,
    threads: int,
    output: Path,
    as_json: bool,
) -> None:
    """Attack a service of the export DIRECTORY; measure what other clients lose. Two minutes: --pairs 2 --window 5
    --seconds 60.
    """
    document = {
        **header("service_abuse", command_line()),
        **document_from_abuse(directory, pairs, window, seconds, silent, slow, threads),
    }
    publish(document, output, as_json, goal_lines(document["goals"]))


def document_from_abuse(
    directory: Path,
    pairs: int = 5,
    window: float = 10.0,
    seconds: float = 600.0,
    silent: int = 1024,
    slow: int = 1000,
    threads: int = 1,
) -> dict[str, Any]:
    """Run every attack. Raises EngineError if the service does not start, and the errors of opening the engine."""
    queries, model = queries_for(directory, threads)
    before = conditions()
    with serving(directory, "--threads", threads) as running:
        target = Target(f"{running.url}/classify", queries)
        connections = connections_step(running, target, pairs, window, silent, slow)
        heads = asyncio.run(heads_step(running))
        pictures = asyncio.run(pictures_step(running))
        bodies = asyncio.run(bodies_step(running))
        descriptors = descriptors_step(directory, threads)
        code = running.stop()
    with serving(directory, "--threads", threads, "--queue", CLIENTS) as running:
        target = Target(f"{running.url}/classify", queries)
        saturation = asyncio.run(saturation_step(running, target, seconds))
        code = code or running.stop()
    document = {
        "model": model,
        "settings": {
            "clients": CLIENTS,
            "threads": threads,
            "silent": silent,
            "slow": slow,
            "head_bytes": HEAD_BYTES,
        },
        "conditions": {"before": before, "after": conditions()},
        "notes": [
            "service, clients and attackers share the machine's cores",
            "a closed connection of an attacker is opened again after two seconds",
        ],
        "connections": connections,
        "heads": heads,
        "pictures": pictures,
        "bodies": bodies,
        "descriptors": descriptors,
        "saturation": saturation,
        "exit_code": code,
    }
    return {**document, "goals": _goals(document)}


def _goals(document: dict[str, Any]) -> dict[str, Any]:
    connections, heads, pictures = document["connections"], document["heads"], document["pictures"]
    bodies, descriptors, saturation = document["bodies"], document["descriptors"], document["saturation"]
    lost = 1 - connections["median_throughput_ratio"]
    kept = bodies["after_bytes"] / bodies["before_bytes"]
    errors = sum(saturation["errors"].values())
    return {
        "silent and slow connections": {
            "reached": lost <= _LOST and not connections["errors"],
            "found": f"ordinary clients lose {lost:.1%}, an answer takes "
            f"{connections['median_cpu_ratio']:.2f} times the processor time, "
            f"{sum(connections['errors'].values())} errors",
        },
        "heads of 50 MB": {
            "reached": heads["attacked"]["worst_ms"] <= _STALL_MS
            and all(" 431 " in answer for answer in heads["answers"]),
            "found": f"other requests take at most {heads['attacked']['worst_ms']:.0f} ms, answers {heads['answers']}",
        },
        "64 pictures of 24 million pixels": {
            "reached": set(pictures["statuses"]) <= {"200", "503"} and pictures["attacked"]["worst_ms"] <= _STALL_MS,
            "found": f"{pictures['statuses']} in {pictures['seconds']:.1f} s, other requests take at most "
            f"{pictures['attacked']['worst_ms']:.0f} ms",
        },
        "memory after 64 bodies of 20 MB": {
            "reached": kept <= _KEPT,
            "found": f"{bodies['fresh_bytes'] / 1e6:.0f} MB when started, "
            f"{bodies['before_bytes'] / 1e6:.0f} after the first 64, {bodies['after_bytes'] / 1e6:.0f} after 192 more, "
            f"{bodies['peak_bytes'] / 1e6:.0f} at most",
        },
        "no descriptors left": {
            "reached": descriptors["attacked"]["worst_ms"] <= _STALL_MS and bool(descriptors["said"]),
            "found": f"other requests take at most {descriptors['attacked']['worst_ms']:.0f} ms, log: "
            f"{descriptors['said']}",
        },
        "saturation": {
            "reached": errors == 0 and saturation["largest_change"] <= _STEADY and document["exit_code"] == 0,
            "found": f"{saturation['answered']} answered in {saturation['seconds']:g} s, {errors} errors, memory "
            f"within {saturation['largest_change']:.1%} from second {saturation['judged_from_s']:.0f} on",
        },
    }
