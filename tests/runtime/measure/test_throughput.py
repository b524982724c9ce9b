import threading

import numpy as np
import pytest
from fake_clock import FakeClock, FakeSession

from tokfilter.errors import DataError
from tokfilter.runtime.measure.scenario import ScenarioConfig
from tokfilter.runtime.measure.throughput import offline, server

IMAGES = np.zeros((2, 1))


class ThreadRecorder:
    """Records the batch size and the thread of every call."""

    def __init__(self):
        self.sizes, self.threads = [], set()

    def run(self, images, keep=None):
        self.sizes.append(len(images))
        self.threads.add(threading.get_ident())


def test_offline_counts_all_streams(session, images):
    config = ScenarioConfig(duration_s=0.1, warm_up_s=0.01, batch=4)
    result = offline([session, session], images, config, 0.5)
    assert result.images_per_query == 4 and result.value == result.images_per_s > 0
    assert any("not accurate" in note for note in result.notes)


def test_offline_runs_each_stream_in_a_thread_of_its_own():
    engines = [ThreadRecorder(), ThreadRecorder()]
    result = offline(engines, IMAGES, ScenarioConfig(duration_s=0.001, warm_up_s=0.0, batch=2))
    assert [len(engine.threads) for engine in engines] == [1, 1]
    assert {size for engine in engines for size in engine.sizes} == {2}
    untimed = 2  # per stream: one call before all start together, one of the warm-up
    assert result.queries == sum(len(engine.sizes) - untimed for engine in engines)
    assert result.value >= 2 * result.queries / result.seconds * (1 - 1e-9)


def test_offline_raises_the_error_of_a_stream(session, images):
    with pytest.raises(ValueError, match="keep"):
        offline([session, session], images, ScenarioConfig(duration_s=0.05), 99)


def test_offline_requires_a_session(images):
    with pytest.raises(DataError, match="at least one session"):
        offline([], images, ScenarioConfig())


def served(seconds, **config):
    clock = FakeClock(tick=1e-6)
    engine = FakeSession(clock, seconds)
    return engine, server(engine, IMAGES, ScenarioConfig(**config), clock=clock, wait=clock.sleep)


def test_server_latency_is_counted_from_the_arrival():
    """Two queries arrive per service time: the queue grows, and latency with it."""
    _, slow = served(0.01, qps=200, latency_bound_ms=15, batch=1, duration_s=0.3, seed=1)
    assert slow.valid is False and slow.latency.p99 > 50 and slow.queries == 60
    assert slow.seconds == pytest.approx(0.6, rel=0.05)
    _, fast = served(0.001, qps=20, latency_bound_ms=500, batch=4, duration_s=0.3, seed=1)
    assert fast.valid is True and fast.queries == 6
    assert fast.latency.min == pytest.approx(1.0, abs=0.1)


def test_server_runs_waiting_queries_as_one_batch():
    engine, _ = served(0.01, qps=400, latency_bound_ms=500, batch=4, duration_s=0.2, seed=0)
    assert engine.sizes[:4] == [4, 3, 2, 1] and max(engine.sizes) == 4
    assert sum(engine.sizes[4:]) == 80


def test_server_on_a_real_engine(session, images):
    result = server(session, images, ScenarioConfig(duration_s=0.05, qps=100), 0.5)
    assert result.scenario == "Server" and result.queries == 5 and isinstance(result.valid, bool)
