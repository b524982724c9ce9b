import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from fake_clock import FakeClock, FakeSession

from tokfilter.runtime.comparison import worker
from tokfilter.runtime.session import Compute, Result, Timing
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)


def timed_session(clock, *seconds):
    return FakeSession(clock, *seconds, result=Result(np.zeros(1), timing=Timing(1.0, 2.0, 3.0, 0.5)))


def test_block_leaves_out_a_short_first_query():
    clock = FakeClock()
    session = timed_session(clock, 0.02, 0.001)
    found = worker.run_block(session, np.zeros(1), 8, 0.05, clock)
    assert found["samples_ms"] == pytest.approx([1.0] * 30, rel=1e-6)
    assert len(session.sizes) - 1 == len(found["timings"]) == 30
    assert found["timings"][0] == (1.0, 2.0, 3.0, 0.5)


def test_block_counts_a_long_first_query_that_is_like_the_others():
    clock = FakeClock()
    session = timed_session(clock, 0.08, 0.06)
    found = worker.run_block(session, np.zeros(1), 8, 0.01, clock)
    assert found["samples_ms"] == pytest.approx([80.0, 60.0]) and found["timings"] == 2 * [(1.0, 2.0, 3.0, 0.5)]
    assert len(session.sizes) == 2


def test_what_an_engine_makes_for_a_new_shape_is_no_sample_even_if_it_takes_longer_than_the_block():
    clock = FakeClock()
    found = worker.run_block(timed_session(clock, 0.3, 0.001), np.zeros(1), 8, 0.1, clock)
    assert found["samples_ms"] == pytest.approx([1.0], rel=1e-6) and len(found["timings"]) == 1


def test_compute_leaves_out_the_first_call():
    class Session:
        def __init__(self, *calls):
            self.calls = list(calls)

        def compute(self, images, keep, seconds):
            return [Compute(host, device) for host, device in self.calls.pop(0)]

    found = worker.run_compute(Session([(9.0, 8.0), (2.0, 1.0)]), np.zeros(1), 8, 0.1)
    assert found == {"samples_ms": [2.0], "timings": [(0.0, 1.0, 0.0, 0.0)]}
    found = worker.run_compute(Session([(9.0, 8.0)], [(3.0, 2.0)]), np.zeros(1), 8, 0.1)
    assert found["samples_ms"] == [3.0], "one call that outlasts the block is followed by another"


def test_block_reads_the_clock_once_per_query():
    """The work around a query does not depend on the number of queries."""
    clock = FakeClock(tick=0.001)
    samples = worker.run_block(timed_session(clock, 0.0), np.zeros(1), 8, 0.5, clock)["samples_ms"]
    assert clock.readings == 2 + len(samples)


def test_worker_replies_with_our_errors_and_continues(export_directory):
    opening = {
        "do": "open",
        "directory": str(export_directory),
        "path": "model.onnx",
        "role": "filtered",
        "options": asdict(OPTIONS),
        "graphs": None,
    }
    requests = [
        opening,
        {"do": "verify", "batch": 1, "tokens": 99},
        {"do": "memory"},
        {"do": "close"},
        {"do": "memory"},
    ]
    replies = io.StringIO()
    worker.serve([json.dumps(request) for request in requests], replies)
    opened, failed, memory = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert "pid" in opened and failed["error"] == "BudgetError" and memory["host_peak_bytes"] > 0
