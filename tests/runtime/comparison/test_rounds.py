from pathlib import Path

import pytest

from tokfilter.errors import DataError
from tokfilter.runtime.comparison.processes import Block, EngineSpec
from tokfilter.runtime.comparison.rounds import BenchConfig, Cell, _worst, run_rounds
from tokfilter.runtime.sessions import SessionOptions

CONFIG = BenchConfig(duration_s=1e-9, warm_up_s=0.25, block_s=0.125)
"""So short that only the least number of rounds is run."""


class FakeEngine:
    """Records its blocks and has a given latency."""

    def __init__(self, ms, calls):
        self.ms, self.calls = ms, calls

    def block(self, batch, tokens, seconds):
        self.calls.append((tokens, seconds))
        return Block([self.ms, self.ms], None)


def measured():
    calls, fractions = [], []
    engines = {"full.onnx": FakeEngine(20.0, calls), "model.onnx": FakeEngine(8.0, calls)}
    specs = [
        EngineSpec(Path(), role, f"{name}.onnx", SessionOptions())
        for role, name in (("full", "full"), ("filtered", "model"), ("filtered", "model"))
    ]
    cells = [Cell(spec, 2, tokens) for spec, tokens in zip(specs, (16, 8, 4), strict=True)]
    run_rounds(cells, engines, CONFIG, fractions.append)
    return cells, calls, fractions


def test_every_cell_is_warmed_up_and_then_measured_in_alternating_order():
    cells, calls, _ = measured()
    assert calls[:3] == [(16, 0.25), (8, 0.25), (4, 0.25)]
    forward = [(16, 0.125), (8, 0.125), (4, 0.125)]
    assert calls[3:] == [*forward, *forward[::-1], *forward, *forward[::-1], *forward]
    assert [cell.medians for cell in cells] == [[20.0] * 5, [8.0] * 5, [8.0] * 5]
    assert len(cells[0].samples) == 10


def test_progress_is_a_fraction():
    _, _, fractions = measured()
    assert len(fractions) == 5 and all(0 < fraction <= 1 for fraction in fractions)


@pytest.mark.parametrize(
    "wrong", [{"duration_s": 0}, {"block_s": -1}, {"warm_up_s": -0.1}, {"duration_s": float("nan")}]
)
def test_config_is_checked(wrong):
    with pytest.raises(DataError, match="positive, finite seconds"):
        BenchConfig(**wrong)


@pytest.mark.parametrize(("duration", "block"), [(3.0, 0.15), (0.75, 0.15), (0.05, 0.01)])
def test_the_least_rounds_fit_into_the_duration(duration, block):
    assert BenchConfig.of_duration(duration, 0.0, 0.15).block_s == pytest.approx(block)
    with pytest.raises(DataError, match="positive, finite seconds"):
        BenchConfig.of_duration(-duration, 0.0, 0.15)


def test_throttling_under_load_is_recorded_after_it_has_ended():
    calm = {"throttled": False, "throttle_reasons": [], "load_average": 1.0}
    hot = {"throttled": True, "throttle_reasons": ["gpu0: hardware thermal slowdown"], "load_average": 2.0}
    found = _worst([hot, calm])
    assert found["throttled"] is True and found["throttle_reasons"] == hot["throttle_reasons"]
    assert found["load_average"] == 1.0
    assert _worst([{**calm, "throttled": None}])["throttled"] is None
