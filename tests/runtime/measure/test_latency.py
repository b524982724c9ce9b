import numpy as np
import pytest
from fake_clock import FakeClock, FakeSession

from tokfilter.runtime.measure.latency import multi_stream, single_stream, timed_queries
from tokfilter.runtime.measure.scenario import ScenarioConfig


def test_single_stream_reports_the_90th_percentile(session, images):
    result = single_stream(session, images, ScenarioConfig(duration_s=0.1, warm_up_s=0.01), 0.5)
    assert (result.scenario, result.images_per_query, result.metric) == (
        "SingleStream",
        1,
        "90th percentile latency (ms)",
    )
    assert result.value == result.latency.p90
    assert result.queries == result.latency.count >= 10
    assert result.images_per_s == pytest.approx(result.queries / result.seconds)


def test_multi_stream_runs_eight_images_per_query():
    engine = FakeSession(FakeClock(), 0.0)
    result = multi_stream(engine, np.zeros((3, 1), np.float32), ScenarioConfig(duration_s=0.001, warm_up_s=0.0))
    assert set(engine.sizes) == {8}
    assert result.value == result.latency.p99
    assert result.images_per_s == pytest.approx(8 * result.queries / result.seconds)


def test_at_least_ten_queries_whatever_the_duration():
    clock = FakeClock()
    samples, seconds = timed_queries(lambda i: clock.sleep(0.002), 0.001, 0.0, clock)
    assert samples == pytest.approx([2.0] * 10) and seconds == pytest.approx(0.02)


def test_queries_are_run_until_the_duration_has_passed():
    clock = FakeClock()
    samples, seconds = timed_queries(lambda i: clock.sleep(0.01 * (1 + i % 2)), 0.6, 0.0, clock)
    assert len(samples) == 40 and seconds == pytest.approx(0.6)
    assert samples[:4] == pytest.approx([10.0, 20.0, 10.0, 20.0])


def test_warm_up_is_by_time_and_not_counted():
    clock, calls = FakeClock(), []
    samples, _ = timed_queries(lambda i: calls.append(clock.sleep(0.002)), 0.001, 0.05, clock)
    assert len(samples) == 10 and len(calls) - len(samples) == 25


def test_the_clock_is_read_once_per_query():
    clock = FakeClock(tick=0.001)
    samples, _ = timed_queries(lambda i: None, 0.5, 0.0, clock)
    before = 3  # two for the warm-up, one for the start
    assert clock.readings == before + len(samples)
