import threading
import time
from importlib.util import find_spec

import numpy as np
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.errors import DataError, MissingDependencyError
from tokfilter.runtime.measure.latency import multi_stream, query_batches, single_stream, timed_queries
from tokfilter.runtime.measure.loadgen import SCENARIOS, Load, run_loadgen
from tokfilter.runtime.measure.throughput import offline, server
from tokfilter.runtime.sessions import SessionOptions, open_session


@pytest.fixture(scope="module")
def session(export_directory):
    with open_session(export_directory, options=SessionOptions(threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def images(session):
    return golden_of(session.model_file.directory, session.model_file.manifest).tiled(8)


class Timed:
    """Takes a known time per call, so that the engines' own arithmetic can be held against it."""

    def __init__(self, seconds):
        self.seconds, self.sizes, self.threads = seconds, [], set()

    def run(self, images, keep=None):
        self.sizes.append(len(images))
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)


def test_single_stream_reports_the_90th_percentile(session, images):
    result = single_stream(session, images, 0.5, duration_s=0.1, warm_up_s=0.01)
    assert (result.scenario, result.images_per_query, result.metric) == (
        "SingleStream",
        1,
        "90th percentile latency (ms)",
    )
    assert result.value == result.latency.p90
    assert result.queries == result.latency.count >= 10
    assert result.images_per_s == pytest.approx(result.queries / result.seconds)


def test_multi_stream_asks_for_eight_at_once():
    engine = Timed(0.002)
    result = multi_stream(engine, np.zeros((3, 1), np.float32), duration_s=0.03, warm_up_s=0.0)
    assert set(engine.sizes) == {8}
    assert result.value == result.latency.p99 >= 2.0
    assert result.images_per_s == pytest.approx(8 * result.queries / result.seconds)


def test_at_least_ten_queries_whatever_the_duration():
    samples, seconds = timed_queries(lambda i: time.sleep(0.001), 0.001, 0.0)
    assert len(samples) == 10 and seconds >= 0.01
    assert sum(samples) / 1e3 == pytest.approx(seconds, rel=0.05)


def test_warm_up_is_by_time_and_not_counted():
    calls = []
    samples, _ = timed_queries(lambda i: calls.append(time.sleep(0.002)), 0.001, 0.05)
    assert len(calls) - len(samples) >= 5


def test_harness_costs_little():
    """At most 1 % of a latency of 20 ms is promised; the loop itself stays far below."""
    samples, seconds = timed_queries(lambda i: None, 0.05, 0.0)
    assert np.median(samples) < 0.02 and seconds / len(samples) < 0.2e-3


def test_offline_counts_all_streams(session, images):
    result = offline([session, session], images, 0.5, batch=4, duration_s=0.1, warm_up_s=0.01)
    assert result.images_per_query == 4 and result.value == result.images_per_s > 0
    assert any("not accurate" in note for note in result.notes)
    engines = [Timed(0.005), Timed(0.005)]
    result = offline(engines, np.zeros((2, 1)), batch=2, duration_s=0.1, warm_up_s=0.0)
    assert len(engines[0].threads) == len(engines[1].threads) == 1
    assert result.value == pytest.approx(2 * 2 / 0.005, rel=0.5)


def test_offline_hands_on_what_a_stream_raises(session, images):
    with pytest.raises(ValueError, match="keep must be"):
        offline([session, session], images, 99, duration_s=0.05)


def test_server_latency_runs_from_the_moment_a_query_was_due():
    """Two queries per service time arrive: a queue builds up, and must show."""
    slow = server(Timed(0.01), np.zeros((2, 1)), qps=200, latency_bound_ms=15, max_batch=1, duration_s=0.3, seed=1)
    assert slow.valid is False and slow.latency.p99 > 50
    calm = server(Timed(0.001), np.zeros((2, 1)), qps=20, latency_bound_ms=500, max_batch=4, duration_s=0.3, seed=1)
    assert calm.valid is True and calm.queries == 6


def test_server_runs_what_waits_together():
    engine = Timed(0.01)
    server(engine, np.zeros((2, 1)), qps=400, latency_bound_ms=500, max_batch=4, duration_s=0.2, seed=0)
    assert max(engine.sizes) == 4


@pytest.mark.parametrize("wrong", [{"qps": 0}, {"latency_bound_ms": -1}, {"max_batch": 0}, {"duration_s": 0}])
def test_server_refuses(session, images, wrong):
    with pytest.raises(DataError, match="Server wants positive"):
        server(session, images, **wrong)


def test_durations_and_streams_are_checked(session, images):
    with pytest.raises(DataError, match="positive seconds"):
        single_stream(session, images, duration_s=0)
    with pytest.raises(DataError, match="at least one session"):
        offline([], images)


def test_query_batches_fill_the_last_from_the_start():
    parts = query_batches(np.arange(5), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 0]]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loadgen_drives_every_scenario(session, images, scenario):
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is an extra")
    load = Load(scenario, duration_s=0.3, batch=4, qps=50, latency_bound_ms=1000)
    result = run_loadgen(session, images, load, 0.5)
    assert result.source.startswith("mlcommons-loadgen ") and result.scenario == scenario
    assert result.value > 0 and result.images_per_s > 0 and result.queries > 0
    assert isinstance(result.valid, bool)


def test_loadgen_hands_on_what_a_session_raises(session, images):
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is an extra")

    class Failing:
        calls = 0

        def run(self, images, keep=None):
            self.calls += 1
            if self.calls > 3:
                raise DataError("the fourth call fails")

    with pytest.raises(DataError, match="fourth call"):
        run_loadgen(Failing(), images, Load("SingleStream", duration_s=0.1))


def test_loadgen_missing_or_misused(session, images, monkeypatch):
    if find_spec("mlperf_loadgen"):
        with pytest.raises(DataError, match="a scenario is one of SingleStream"):
            run_loadgen(session, images, Load("Tomorrow"))
    import sys

    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingDependencyError, match="pip install mlcommons-loadgen"):
        run_loadgen(session, images, Load("Offline"))
