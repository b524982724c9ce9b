import sys

import pytest

from tokfilter.errors import DataError, MissingDependencyError
from tokfilter.runtime.measure.loadgen import _sizes, run_loadgen
from tokfilter.runtime.measure.scenario import SCENARIOS, ScenarioConfig


@pytest.fixture
def loadgen():
    return pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is an extra")


@pytest.mark.usefixtures("loadgen")
@pytest.mark.parametrize("scenario", SCENARIOS.values())
def test_loadgen_drives_every_scenario(session, images, scenario):
    config = ScenarioConfig(duration_s=0.3, batch=4, qps=50, latency_bound_ms=1000)
    result = run_loadgen(session, images, scenario, config, 0.5)
    assert result.source.startswith("mlcommons-loadgen ") and result.scenario == scenario
    assert result.value > 0 and result.images_per_s > 0 and result.queries > 0
    assert isinstance(result.valid, bool)


class Failing:
    """A session whose fourth call fails."""

    calls = 0

    def run(self, images, keep=None):
        self.calls += 1
        if self.calls > 3:
            raise DataError("the fourth call fails")


@pytest.mark.usefixtures("loadgen")
def test_error_of_a_session_is_raised(images):
    with pytest.raises(DataError, match="fourth call"):
        run_loadgen(Failing(), images, "SingleStream", ScenarioConfig(duration_s=0.1))


@pytest.mark.usefixtures("loadgen")
def test_unknown_scenario_is_refused(session, images):
    with pytest.raises(DataError, match="a scenario is one of SingleStream"):
        run_loadgen(session, images, "Tomorrow", ScenarioConfig())


def test_missing_package(session, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingDependencyError, match="pip install mlcommons-loadgen"):
        run_loadgen(session, images, "Offline", ScenarioConfig())


def test_every_shape_of_a_scenario_is_run_before_it_is_timed():
    assert _sizes("SingleStream", 4) == (1,) and _sizes("MultiStream", 4) == (8,)
    assert list(_sizes("Offline", 4)) == list(_sizes("Server", 4)) == [4, 3, 2, 1]
