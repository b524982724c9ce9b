"""The allocator's settings, in a process of their own."""

import subprocess
import sys

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
