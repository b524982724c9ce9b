import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.runtime.measure.metrics import latency_from_samples, percentile, stability, transfer_warnings
from tokfilter.runtime.session import Timing

RULE = [(10, 90, 8), (10, 95, 9), (100, 99, 98), (1, 99, 0), (7, 0, 0), (3, 100, 2)]
SAMPLES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("n", "p", "index"), [(10, 90, 8), (10, 95, 9), (100, 99, 98), (1, 99, 0), (7, 0, 0), (3, 100, 2)]
)
def test_percentile_follows_trtexec(n, p, index):
    assert percentile(list(range(n)), p) == index


def test_percentile_is_computed_exactly():
    """(1 - 0.9) * 10 is 0.9999999999999998 in binary: a float would drop no sample."""
    assert percentile(list(range(10)), 90) == 8


@given(SAMPLES)
def test_percentiles_are_samples_in_order(samples):
    latency = latency_from_samples(samples)
    assert latency.min <= latency.median <= latency.max
    assert latency.p90 <= latency.p95 <= latency.p99 <= latency.max
    assert {latency.p90, latency.p95, latency.p99} <= set(np.asarray(samples, np.float64))
    assert latency.count == len(samples)


def test_cv_is_the_population_deviation_over_the_mean():
    assert latency_from_samples([1.0, 3.0]).cv == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "p"), [([], 90), ([1.0], -1), ([1.0], 100.5)])
def test_percentile_refuses(samples, p):
    with pytest.raises(ValueError, match="requires samples and 0"):
        percentile(samples, p)


def test_latency_requires_samples():
    with pytest.raises(ValueError, match="at least one sample"):
        latency_from_samples([])


def test_warns_above_the_coefficient_of_variation_of_trtexec():
    assert stability(latency_from_samples([100, 101, 99, 100])) == []
    (warning,) = stability(latency_from_samples([100, 110]), gpu=True)
    assert "unstable" in warning and "lock the GPU's clocks" in warning


def test_transfer_warnings_name_the_bottleneck():
    assert transfer_warnings([Timing(0.1, 1.0, 0.1, 0.2)]) == []
    assert transfer_warnings([]) == []
    found = " ".join(transfer_warnings([Timing(2.0, 1.0, 3.0, 0.9)]))
    assert "enqueue" in found and "host-to-device" in found and "device-to-host" in found


def test_latency_is_the_sum_of_the_three_stages():
    assert Timing(1.0, 2.0, 3.0, 9.0).latency_ms == 6.0
