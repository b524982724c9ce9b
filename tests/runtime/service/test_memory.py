"""The allocator's settings, in a process of their own; when memory is given back."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

PROGRAM = """
import gc, os, threading
from tokfilter.runtime.service.memory import give_back_memory, keep_heap_small

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work():
    blocks = [bytearray(b"x") * 3_000_000 for _ in range(20)] + [bytearray(b"x") * 50_000 for _ in range(400)]
    cycle = [blocks]
    cycle.append(cycle)

keep_heap_small()
gc.disable()
before = resident()
for _ in range(4):
    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
high = resident()
give_back_memory()
print(before, high, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux only")
def test_memory_of_threads_and_cycles_is_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, high, after = map(int, done.stdout.split())
    assert high - before > 300_000_000  # what only cycles hold
    assert after - before < 20_000_000


def test_memory_is_given_back_twice_after_a_load_and_not_while_requests_are_answered(monkeypatch):
    """A connection is closed, and what it held is freed, after its request has left."""
    pytest.importorskip("fastapi", reason="needs fastapi: pip install 'tokfilter[service]'")
    from tokfilter.runtime.service import app

    batcher, given, looks = SimpleNamespace(taken=0, admitted=0), [], []
    loads = {2: (5, 0), 6: (9, 3), 9: (9, 0), 13: (10, 0)}  # look: slots taken since the start, in flight

    async def next_look(_):
        looks.append(1)
        batcher.taken, batcher.admitted = loads.get(len(looks), (batcher.taken, batcher.admitted))
        if len(looks) > 20:
            raise asyncio.CancelledError

    async def here(function):
        function()

    monkeypatch.setattr(app, "asyncio", SimpleNamespace(sleep=next_look, to_thread=here))
    monkeypatch.setattr(app, "give_back_memory", lambda: given.append(len(looks)))
    with suppress(asyncio.CancelledError):
        asyncio.run(app.Service._tidy(SimpleNamespace(batcher=batcher)))
    assert given == [2, 3, 9, 10, 13, 14]
