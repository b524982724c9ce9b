import pytest
from openvino_exports import NEEDED
from schema_check import valid

from tokfilter.errors import DataError
from tokfilter.runtime.comparison.scenarios import run_scenarios
from tokfilter.runtime.measure.scenario import ScenarioConfig
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)


def test_scenarios_cover_full_and_filtered(export_directory):
    config = ScenarioConfig(duration_s=0.05, warm_up_s=0.0, batch=2, qps=100)
    names = ["single-stream", "multi-stream", "offline", "server"]
    found = valid(run_scenarios(export_directory, names, [0.5], OPTIONS, config))
    assert [(row["tokens"], row["scenario"]) for row in found["rows"]][:2] == [
        (16, "SingleStream"),
        (16, "MultiStream"),
    ]
    assert len(found["rows"]) == 8 and [(one["tokens"], one["batch"]) for one in found["verification"]] == [
        (tokens, batch) for tokens in (16, 8) for batch in (1, 2, 8)
    ]


def test_offline_has_a_session_of_openvino_compiled_for_it(export_directory):
    pytest.importorskip("openvino", reason=NEEDED)
    config = ScenarioConfig(duration_s=0.05, warm_up_s=0.0, batch=2, streams=2)
    options = SessionOptions("openvino", threads=2, model_cache=False)
    found = valid(run_scenarios(export_directory, ["single-stream", "offline"], [0.5], options, config))
    rows = {(row["tokens"], row["scenario"]): row for row in found["rows"]}
    assert set(rows) == {(16, "SingleStream"), (16, "Offline"), (8, "SingleStream"), (8, "Offline")}
    assert "as many requests at the same time" in rows[8, "Offline"]["notes"][0]
    assert rows[8, "Offline"]["queries"] >= 10


def test_unknown_scenario(export_directory):
    with pytest.raises(DataError, match="one of single-stream, multi-stream, offline, server, got chaos"):
        run_scenarios(export_directory, ["chaos"], [0.5])
