"""Dynamic batching with a limit on requests in flight: waiting requests with the same budget run as one batch.

Libraries that were tried first: ``batched`` 0.1.5 has an unbounded queue and polls it. ``async-batcher`` 0.2.2 has a
bound, but a batch fails when one of its callers is cancelled (it sets the result of a cancelled future, and the others
wait forever), it has no batch of one, stopping does not wait for running batches, and its last release is of February
2025. LitServe is a server of its own with an unbounded queue. None of them batches by budget.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Batcher", "Full", "Slot"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Full(Exception):  # noqa: N818  (a state, not a failure)
    """The batcher is at its limit of requests, or closed."""


class Slot:
    """A place of a request in flight. ``release`` gives it back, once."""

    def __init__(self, on_release: Callable[[], None]) -> None:
        self._on_release: Callable[[], None] | None = on_release

    def release(self) -> None:
        """Give the place back; further calls do nothing."""
        if self._on_release is not None:
            self._on_release()
            self._on_release = None


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    budget: int
    since: float
    answer: "asyncio.Future[Answer]"


@dataclass
class Batcher(Generic[Item, Answer]):
    """Runs items with equal budgets together, the oldest first. All methods belong to one event loop.

    run: called with (items, budget), returns one answer per item; one call at a time
    largest: most items in a batch
    wait_s: longest wait of the oldest item for a fuller batch, in seconds
    limit: requests in flight, whether they are read, decoded, waiting or running
    on_batch: called with the size of each batch
    """

    run: Callable[[Sequence[Item], int], Awaitable[Sequence[Answer]]]
    largest: int = 8
    wait_s: float = 0.002
    limit: int = 64
    on_batch: Callable[[int], None] = lambda _: None
    admitted: int = field(default=0, init=False)
    taken: int = field(default=0, init=False)
    """Slots that were taken since the start."""
    _queue: "deque[_Waiting[Item, Answer]]" = field(default_factory=deque, init=False, repr=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)
    _closed: bool = field(default=False, init=False)

    @property
    def depth(self) -> int:
        """Items waiting for a batch."""
        return len(self._queue)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Hold one of the ``limit`` slots while the block runs, or until it is released. Raises Full."""
        if self._closed or self.admitted >= self.limit:
            raise Full
        self.admitted += 1
        self.taken += 1
        slot = Slot(self._released)
        try:
            yield slot
        finally:
            slot.release()

    def _released(self) -> None:
        self.admitted -= 1
        self._changed.set()

    async def submit(self, item: Item, budget: int) -> Answer:
        """Return the answer for one item; call it within ``slot``. Raises the exception of its batch's ``run``."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Answer](item, budget, loop.time(), loop.create_future())
        self._queue.append(waiting)
        self._changed.set()
        return await waiting.answer

    def close(self) -> None:
        """Admit no more requests; ``work`` returns when every submitted item is answered."""
        self._closed = True
        self._changed.set()

    async def work(self) -> None:
        """Form and run batches until the batcher is closed and empty."""
        while True:
            self._changed.clear()
            if self._queue:
                budget = self._queue[0].budget
                await self._fill(budget, self._queue[0].since + self.wait_s)
                await self._answer(self._take(budget), budget)
            elif self._closed and not self.admitted:
                return
            else:
                await self._changed.wait()

    async def _fill(self, budget: int, deadline: float) -> None:
        """Wait until a batch of this budget is full, or until the event loop's time ``deadline``."""
        loop = asyncio.get_running_loop()
        while not self._closed and sum(w.budget == budget for w in self._queue) < self.largest:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - loop.time())
            except asyncio.TimeoutError:  # the built-in TimeoutError from Python 3.11 on
                return

    def _take(self, budget: int) -> "list[_Waiting[Item, Answer]]":
        taken: list[_Waiting[Item, Answer]] = []
        left: deque[_Waiting[Item, Answer]] = deque()
        for waiting in self._queue:
            if waiting.answer.cancelled():
                continue
            (taken if waiting.budget == budget and len(taken) < self.largest else left).append(waiting)
        self._queue = left
        return taken

    async def _answer(self, batch: "list[_Waiting[Item, Answer]]", budget: int) -> None:
        if not batch:
            return
        self.on_batch(len(batch))
        try:
            answers = await self.run([waiting.item for waiting in batch], budget)
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in pairs:
            if not waiting.answer.done():  # cancelled by its caller
                waiting.answer.set_result(answer)
