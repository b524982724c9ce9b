"""Clients that send images to a service: one for each answer (closed loop), or at a rate of their own (open)."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import aiohttp
import numpy as np

__all__ = ["Sent", "Target", "closed_loop", "open_loop"]

_TIMEOUT_S: Final = 60
_SAME: Final = 1e-3
_BACK_OFF_S: Final = 0.1


@dataclass(frozen=True)
class Target:
    """Where to send what, and what to get back.

    queries: (image file, budget in tokens, score of the likeliest class)
    """

    url: str
    queries: Sequence[tuple[bytes, int, float]]


@dataclass
class Sent:
    """What became of the requests of one load.

    answered, refused: (second at which the answer came, milliseconds since it was due)
    errors: what else came, counted
    """

    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def closed_loop(target: Target, clients: int, seconds: float) -> Sent:
    """Each client sends its next image when the last one is answered; a refused one comes back 0.1 s later."""
    sent = Sent()
    begin = perf_counter()

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while (now := perf_counter()) < begin + seconds:
            status = await _send(session, target, number, sent, begin, now)
            number += clients
            if status != 200:
                await asyncio.sleep(_BACK_OFF_S)

    async with _session() as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return sent


async def open_loop(target: Target, rate: float, seconds: float, seed: int = 0) -> Sent:
    """Images are due as a Poisson process of ``rate`` per second, whatever the service does."""
    sent = Sent()
    generator = np.random.default_rng(seed)
    begin = due = perf_counter()
    number = 0
    async with _session() as session:
        tasks = []
        while (due := due + float(generator.exponential(1 / rate))) < begin + seconds:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            tasks.append(asyncio.create_task(_send(session, target, number, sent, begin, due)))
            number += 1
        await asyncio.gather(*tasks)
    return sent


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
    )


async def _send(
    session: aiohttp.ClientSession, target: Target, number: int, sent: Sent, begin: float, due: float
) -> int:
    image, tokens, score = target.queries[number % len(target.queries)]
    query, headers = {"keep": f"{tokens}t", "top": "1"}, {"Content-Type": "image/jpeg"}
    try:
        async with session.post(target.url, data=image, params=query, headers=headers) as response:
            answer = await response.json()
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
        sent.errors[type(error).__name__] += 1
        return 0
    now = perf_counter()
    record = (now - begin, (now - due) * 1e3)
    if response.status == 503 and "Retry-After" in response.headers:
        sent.refused.append(record)
    elif response.status != 200:
        sent.errors[f"status {response.status}"] += 1
    elif abs(answer["top"][0]["score"] - score) > _SAME or answer["tokens"] != tokens:
        sent.errors["another answer than the session's"] += 1
    else:
        sent.answered.append(record)
    return response.status
