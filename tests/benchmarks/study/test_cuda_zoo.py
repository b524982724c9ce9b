"""The published fusions of timm models match their schema and passed; the program measures a small model."""

import json

import jsonschema
import pytest
from paths import SCHEMAS
from small_models import SMALL

from tokfilter.benchmarks.study import cuda_zoo

NORMS = "layer norms of a residual sum"


@pytest.fixture
def document():
    if not cuda_zoo.RESULT.is_file():
        pytest.skip("not measured yet: python -m tokfilter.benchmarks cuda-zoo")
    return json.loads(cuda_zoo.RESULT.read_text())


def test_every_model_is_fused_whole_and_right(document):
    jsonschema.validate(document, json.loads((SCHEMAS / cuda_zoo.RESULT.name).read_text()))
    assert len(document["models"]) >= 15
    for row in document["models"]:
        for precision in ("fp32", "fp16", "bf16"):
            assert row[precision]["failed"] == [], row["model"]
            fusions = row[precision]["fusions"]
            assert fusions["attentions"]["not_fused"] == fusions["activations"]["not_fused"] == {}, row["model"]
            assert fusions["attentions"]["found"] >= 8, row["model"]


def test_deit_small_has_at_most_150_nodes(document):
    (row,) = [row for row in document["models"] if row["model"] == "deit_small_patch16_224"]
    for precision in ("fp32", "fp16", "bf16"):
        assert max(row[precision]["nodes"].values()) <= 150
        counts = {kind: (f["fused"], f["found"]) for kind, f in row[precision]["fusions"].items()}
        assert counts == {"attentions": (12, 12), NORMS: (24, 24), "activations": (14, 14)}


def test_a_small_model_is_measured():
    row = cuda_zoo.measure(SMALL.name, None, ("fp32", "fp16"), **SMALL.kwargs)
    assert row["fp32"]["failed"] == row["fp16"]["failed"] == []
    assert 1e-8 < row["fp32"]["relative_error"] < 1e-5 < row["fp16"]["relative_error"] < 2e-2
    assert row["fp32"]["nodes"]["filtered"] < row["plain_nodes"]["filtered"] / 2
    assert row["fp32"]["fusions"]["attentions"] == {"fused": 2, "found": 2, "not_fused": {}}
    assert row["fp32"]["checks"] == 4
