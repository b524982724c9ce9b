"""The example service's batcher: bounds, order, one budget to a batch, and nobody forgotten."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.examples.service.batcher import Batcher, Full


class Engine:
    """Answers each item with its double; remembers its batches; waits where it is told to."""

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
    with batcher.place():
        return await batcher.submit(item, budget)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([0, 0.001]),
)
def test_everybody_is_answered_in_batches_of_one_budget(budgets, largest, wait_s):
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


def test_the_oldest_goes_first_whatever_its_budget():
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


def test_a_batch_waits_for_others_but_not_longer_than_it_may():
    async def run():
        engine = Engine()
        async with working(engine, largest=3, wait_s=0.6) as batcher:
            clock = asyncio.get_running_loop().time
            start = clock()
            first = asyncio.create_task(ask(batcher, 0))
            await asyncio.sleep(0.02)
            await asyncio.gather(first, ask(batcher, 1), ask(batcher, 2))
            full = clock() - start
            start = clock()
            await ask(batcher, 3)
            alone = clock() - start
        assert [len(items) for _, items in engine.batches] == [3, 1]
        assert full < 0.6 <= alone + 0.01

    asyncio.run(run())


def test_one_more_than_the_limit_is_refused_and_the_place_comes_free_again():
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


def test_a_caller_that_goes_leaves_the_others_in_the_batch():
    async def run():
        engine = Engine()
        async with working(engine, largest=3, wait_s=0.02) as batcher:
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.wait(tasks)
            assert (tasks[0].result(), tasks[2].result()) == (0, 4) and tasks[1].cancelled()
            engine.gate.clear()  # and one that goes while its batch runs
            tasks = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            engine.gate.set()
            await asyncio.wait(tasks)
            assert (tasks[1].result(), tasks[2].result()) == (2, 4)
            assert await ask(batcher, 5) == 10

    asyncio.run(run())


@pytest.mark.parametrize("answers", [ValueError("no"), [1]])
def test_an_engine_that_fails_fails_its_batch_only(answers):
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


def test_closing_refuses_who_comes_and_answers_who_is_in():
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


def test_closing_waits_for_a_place_that_never_submits():
    async def run():
        async with working(Engine()) as batcher:
            with batcher.place():
                batcher.close()
                await asyncio.sleep(0.01)

    asyncio.run(run())
