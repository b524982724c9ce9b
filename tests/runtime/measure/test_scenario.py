import numpy as np
import pytest

from tokfilter.commands import bench
from tokfilter.errors import DataError
from tokfilter.runtime.measure.scenario import SCENARIOS, ScenarioConfig, query_batches


@pytest.mark.parametrize("wrong", [{"duration_s": 0}, {"warm_up_s": -0.1}])
def test_durations_are_checked(wrong):
    with pytest.raises(DataError, match="positive seconds"):
        ScenarioConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"qps": 0}, {"latency_bound_ms": -1}, {"batch": 0}, {"streams": 0}])
def test_other_settings_are_checked(wrong):
    with pytest.raises(DataError, match="positive numbers of streams"):
        ScenarioConfig(**wrong)


@pytest.mark.parametrize("name", ["duration_s", "warm_up_s", "qps", "latency_bound_ms"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(name, value):
    with pytest.raises(DataError, match="finite numbers"):
        ScenarioConfig(**{name: value})


def test_more_queries_than_memory_holds_are_refused():
    with pytest.raises(DataError, match="at most 10,000,000 queries, got 1e"):
        ScenarioConfig(qps=1e12)


def test_query_batches_fill_the_last_from_the_start():
    parts = query_batches(np.arange(5), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 0]]


def test_command_line_offers_every_scenario():
    assert tuple(SCENARIOS) == bench._SCENARIOS
