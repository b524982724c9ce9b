import os
import subprocess
import sys

from tokfilter.runtime.measure.memory import host_peak_bytes


def test_peak_memory_never_falls():
    before = host_peak_bytes()
    block = bytearray(os.urandom(1)) * 80_000_000
    after = host_peak_bytes()
    del block
    counted = 2**24  # Linux counts pages per thread and adds them up later
    assert 1_000_000 < before <= after <= host_peak_bytes() + counted


def test_peak_memory_is_not_the_one_of_the_parent():
    block = bytearray(os.urandom(1)) * 300_000_000
    code = "from tokfilter.runtime.measure.memory import host_peak_bytes; print(host_peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(block) < host_peak_bytes()
