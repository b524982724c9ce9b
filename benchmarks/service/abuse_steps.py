"""The attacks of ``service-abuse``, one function each: what the service did, and what other clients noticed."""

import asyncio
import io
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from PIL import Image

from tokfilter.benchmarks.service.attacks import endless_head, held_connections, open_connections
from tokfilter.benchmarks.service.clients import Target, closed_loop
from tokfilter.benchmarks.service.process import Running, cpu_seconds, resident_bytes, serving

__all__ = [
    "CLIENTS",
    "HEAD_BYTES",
    "bodies_step",
    "connections_step",
    "descriptors_step",
    "heads_step",
    "pictures_step",
    "saturation_step",
]

CLIENTS: Final = 32
HEAD_BYTES: Final = 50_000_000
OPEN_FILES: Final = 512
_AT_ONCE: Final = 64
"""Pictures and bodies that are sent at the same time."""
_PICTURE: Final = 4898
_NOISE: Final = 2560
"""Edges of the large picture, and of one whose file has almost 20 MB, in pixels."""
_OPENING_S: Final = 3.0
"""Seconds until all connections of an attack are open."""
_QUIET_S: Final = 2.0
_SETTLED: Final = 0.2
"""Fraction of the saturation after which memory is judged, where it is shorter than ten minutes."""
_TIDY_S: Final = 12.0
"""The service gives memory back within 5 s of a load's end."""


def _port(running: Running) -> int:
    return int(urlsplit(running.url).port or 0)


def connections_step(
    running: Running, target: Target, pairs: int, window: float, silent: int, slow: int
) -> dict[str, Any]:
    """Throughput of ordinary clients, in turn without and with held connections."""
    asyncio.run(closed_loop(target, CLIENTS, min(2.0, window)))  # threads and caches
    measured, errors = [], Counter[str]()
    for _ in range(pairs):
        quiet = _window(running, target, window, errors)
        with held_connections(_port(running), silent, slow):
            sleep(_OPENING_S)
            attacked = _window(running, target, window, errors)
        sleep(1)
        measured.append({"quiet": quiet, "attacked": attacked})
    ratios = [pair["attacked"]["answered_per_s"] / max(1e-9, pair["quiet"]["answered_per_s"]) for pair in measured]
    costs = [pair["attacked"]["cpu_ms_per_answer"] / max(1e-9, pair["quiet"]["cpu_ms_per_answer"]) for pair in measured]
    return {
        "window_s": window,
        "pairs": measured,
        "median_throughput_ratio": median(ratios),
        "median_cpu_ratio": median(costs),
        "errors": dict(errors),
    }


def _window(running: Running, target: Target, seconds: float, errors: Counter[str]) -> dict[str, float]:
    """Answers to ordinary clients, and the processor time that the service takes for each."""
    before = cpu_seconds(running.process.pid)
    sent = asyncio.run(closed_loop(target, CLIENTS, seconds))
    cpu = cpu_seconds(running.process.pid) - before
    errors += sent.errors
    answered = len(sent.answered)
    return {
        "answered_per_s": answered / seconds,
        "refused": len(sent.refused),
        "cpu_ms_per_answer": 1e3 * cpu / max(1, answered),
    }


async def heads_step(running: Running) -> dict[str, Any]:
    """Four endless heads at once, and how long other requests take meanwhile."""
    quiet = await _probe(running, asyncio.sleep(_QUIET_S))
    attack = asyncio.gather(*(endless_head(_port(running), HEAD_BYTES) for _ in range(4)))
    attacked = await _probe(running, attack)
    return {
        "quiet": quiet,
        "attacked": attacked,
        "sent_bytes": [sent for sent, _ in attack.result()],
        "answers": [line.decode("ascii", "replace").strip() for _, line in attack.result()],
    }


async def pictures_step(running: Running) -> dict[str, Any]:
    """64 PNG files of 4898 x 4898 pixels at once, and how long other requests take meanwhile."""
    body = _png(Image.new("RGBA", (_PICTURE, _PICTURE), (200, 100, 50, 128)))
    begin = perf_counter()
    attack = asyncio.gather(*(_post(running, body, "image/png") for _ in range(_AT_ONCE)))
    attacked = await _probe(running, attack)
    return {
        "file_bytes": len(body),
        "statuses": _counted(attack.result()),
        "seconds": perf_counter() - begin,
        "attacked": attacked,
    }


async def bodies_step(running: Running) -> dict[str, Any]:
    """64 bodies of almost 20 MB at once, four times, and what memory the service keeps after the first and the last."""
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE, _NOISE, 3), dtype=np.uint8)
    body, pid = _png(Image.fromarray(noise)), running.process.pid
    fresh, peak, statuses, kept = resident_bytes(pid), 0, Counter[str](), []
    for rounds in (1, 3):  # the first one also fills what stays: stacks of threads, the engine's buffers
        for _ in range(rounds):
            attack = asyncio.gather(*(_post(running, body, "image/png") for _ in range(_AT_ONCE)))
            while not attack.done():
                peak = max(peak, resident_bytes(pid))
                await asyncio.sleep(0.05)
            statuses += Counter(_counted(attack.result()))
        await asyncio.sleep(_TIDY_S)
        kept.append(resident_bytes(pid))
    return {
        "body_bytes": len(body),
        "statuses": dict(statuses),
        "fresh_bytes": fresh,
        "before_bytes": kept[0],
        "peak_bytes": peak,
        "after_bytes": kept[1],
    }


def descriptors_step(directory: Path, threads: int) -> dict[str, Any]:
    """A service that may open 512 files only, and more silent connections than that."""
    with serving(directory, "--threads", threads, open_files=OPEN_FILES) as running:
        held = open_connections(_port(running), OPEN_FILES + 100)
        try:
            found = asyncio.run(_probe(running, asyncio.sleep(_QUIET_S)))
        finally:
            for one in held:
                one.close()
        said = [line for line in running.log_text().splitlines() if "WARNING" in line]
    return {"open_files": OPEN_FILES, "connections": len(held), "attacked": found, "said": said}


async def saturation_step(running: Running, target: Target, seconds: float) -> dict[str, Any]:
    """More clients than places for ``seconds``; the service's memory each second."""
    memory: list[tuple[float, int]] = []
    begin = perf_counter()
    load = asyncio.create_task(closed_loop(target, 2 * CLIENTS, seconds))
    while not load.done():
        memory.append((perf_counter() - begin, resident_bytes(running.process.pid)))
        await asyncio.sleep(1)
    sent = load.result()
    judged_from = min(120.0, _SETTLED * seconds)
    judged = [value for at, value in memory if at >= judged_from] or [memory[-1][1]]
    return {
        "seconds": seconds,
        "answered": len(sent.answered),
        "refused": len(sent.refused),
        "errors": dict(sent.errors),
        "judged_from_s": judged_from,
        "memory": [[round(at, 1), value] for at, value in memory[:: max(1, len(memory) // 300)]],
        "largest_change": max(abs(value / judged[0] - 1) for value in judged),
    }


async def _probe(running: Running, until: Any) -> dict[str, Any]:
    """One request after another to a route without work, until something is done. Times in ms."""
    task, times = asyncio.ensure_future(until), list[float]()
    statuses = Counter[str]()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        while not task.done() or not times:
            begin = perf_counter()
            async with session.get(f"{running.url}/health/live") as response:
                await response.read()
            times.append((perf_counter() - begin) * 1e3)
            statuses[str(response.status)] += 1
            await asyncio.sleep(0.01)
    return {"requests": len(times), "statuses": dict(statuses), "worst_ms": max(times), "median_ms": median(times)}


async def _post(running: Running, body: bytes, kind: str) -> str:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        try:
            async with session.post(f"{running.url}/classify", data=body, headers={"Content-Type": kind}) as response:
                await response.read()
                return str(response.status)
        except aiohttp.ClientError as error:  # refused and closed before the whole body was sent
            return type(error).__name__


def _counted(statuses: list[str]) -> dict[str, int]:
    return dict(Counter(statuses))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()
