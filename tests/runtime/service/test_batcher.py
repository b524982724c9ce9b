"""The service's batcher: limits, order, one budget per batch, cancellation and closing."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.runtime.service.batcher import Batcher, Full


class Engine:
    """Returns twice each item; records its batches; waits for ``gate``."""

    def __init__(self):
        self.batches, self.gate = [], asyncio.Event()
        self.gate.set()

    async def __call__(self, items, budget):
        self.batches.append((budget, list(items)))
        await self.gate.wait()
        return [2 * item for item in items]


@contextlib.asynccontextmanager
async def working(engine, **options):
    batcher = Batcher(engine, **options)
    worker = asyncio.create_task(batcher.work())
    try:
        yield batcher
    finally:
        batcher.close()
        await asyncio.wait_for(worker, 5)


async def ask(batcher, item, budget=0):
    with batcher.slot():
        return await batcher.submit(item, budget)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([0, 0.001]),
)
def test_every_item_is_answered_in_batches_of_one_budget(budgets, largest, wait_s):
    async def run():
        engine = Engine()
        async with working(engine, largest=largest, wait_s=wait_s, limit=len(budgets)) as batcher:
            answers = await asyncio.gather(*(ask(batcher, i, budget) for i, budget in enumerate(budgets)))
        assert answers == [2 * i for i in range(len(budgets))]
        assert batcher.admitted == batcher.depth == 0
        for budget, items in engine.batches:
            assert {budgets[i] for i in items} == {budget}
            assert len(items) <= largest and items == sorted(items)

    asyncio.run(run())


def test_the_oldest_item_runs_first():
    async def run():
        engine = Engine()
        engine.gate.clear()
        async with working(engine, largest=4, wait_s=0) as batcher:
            tasks = [asyncio.create_task(ask(batcher, i, budget)) for i, budget in enumerate([1, 2, 1, 2, 3, 1])]
            await asyncio.sleep(0.01)
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert engine.batches == [(1, [0, 2, 5]), (2, [1, 3]), (3, [4])]

    asyncio.run(run())


def test_a_full_batch_runs_before_the_longest_wait_and_a_partial_one_after_it():
    async def run():
        full = Engine()
        async with working(full, largest=3, wait_s=3600) as batcher:
            first = asyncio.create_task(ask(batcher, 0))
            await asyncio.sleep(0.02)
            await asyncio.gather(first, ask(batcher, 1), ask(batcher, 2))
        assert [len(items) for _, items in full.batches] == [3]
        partial = Engine()
        async with working(partial, largest=3, wait_s=0.3) as batcher:
            clock = asyncio.get_running_loop().time
            start = clock()
            await ask(batcher, 3)
            assert clock() - start >= 0.3 - 0.01  # the event loop's clock resolution
        assert [len(items) for _, items in partial.batches] == [1]

    asyncio.run(run())


def test_above_the_limit_a_request_is_refused_until_a_slot_is_free():
    async def run():
        engine = Engine()
        engine.gate.clear()
        async with working(engine, limit=2) as batcher:
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(2)]
            await asyncio.sleep(0.01)
            with pytest.raises(Full):
                await ask(batcher, 2)
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert await ask(batcher, 3) == 6

    asyncio.run(run())


def test_a_cancelled_caller_leaves_the_others_in_the_batch():
    async def run():
        engine = Engine()
        async with working(engine, largest=3, wait_s=0.02) as batcher:
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.wait(tasks)
            assert (tasks[0].result(), tasks[2].result()) == (0, 4) and tasks[1].cancelled()
            engine.gate.clear()  # cancelled while its batch runs
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            engine.gate.set()
            await asyncio.wait(tasks)
            assert (tasks[1].result(), tasks[2].result()) == (2, 4)
            assert await ask(batcher, 5) == 10

    asyncio.run(run())


@pytest.mark.parametrize("answers", [ValueError("no"), [1]])
def test_an_engine_error_affects_only_its_batch(answers):
    async def run():
        async def engine(items, budget):
            if budget == 1:
                if isinstance(answers, Exception):
                    raise answers
                return answers
            return items

        async with working(engine, largest=2, wait_s=0.01) as batcher:
            found = await asyncio.gather(*(ask(batcher, i, i // 2) for i in range(4)), return_exceptions=True)
        assert found[:2] == [0, 1]
        assert all(isinstance(error, ValueError) for error in found[2:])

    asyncio.run(run())


def test_closing_refuses_new_items_and_answers_submitted_ones():
    async def run():
        engine = Engine()
        engine.gate.clear()
        async with working(engine, largest=1) as batcher:
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
            await asyncio.sleep(0.01)
            batcher.close()
            with pytest.raises(Full):
                await ask(batcher, 9)
            engine.gate.set()
            assert await asyncio.gather(*tasks) == [0, 2, 4]

    asyncio.run(run())


def test_closing_waits_for_a_slot_that_never_submits():
    async def run():
        batcher = Batcher(Engine())
        worker = asyncio.create_task(batcher.work())
        with batcher.slot():
            batcher.close()
            await asyncio.sleep(0.01)
            assert not worker.done()
        await asyncio.wait_for(worker, 5)
        assert worker.done() and batcher.admitted == 0

    asyncio.run(run())
