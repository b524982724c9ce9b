"""Tables of gpu-proof.json from a document with every kind of result."""

import json

import pytest
from paths import ROOT
from schema_check import valid

from tokfilter.benchmarks.records.proof_tables import PROOF_TABLES, int8_table, proof_tables
from tokfilter.benchmarks.records.readme import page_with_tables

DOCUMENT = json.loads((ROOT / "tests" / "data" / "gpu-proof.json").read_text())


@pytest.fixture
def tables():
    return dict(zip(PROOF_TABLES, (table for _, table in proof_tables(DOCUMENT)), strict=True))


def test_the_example_follows_the_schema():
    assert valid(DOCUMENT)["rows"]


def test_verdicts_are_one_line_per_engine(tables):
    line = "| `deit_small.filtered.plugin.fp16.b8` | 8 | 98, 196 | 2 of 2 | 0.004 (0.02) | 100% | 99.2% |"
    assert line in tables["proof_golden"]
    assert "| `TensorRT, plugin, full` | 8 | 196 | 0 of 1 |  |  |  |" in tables["proof_golden"]
    assert "TensorRT, plugin, filtered" not in tables["proof_golden"], "those that passed are timed, not listed"


def test_times_show_median_and_p90_and_ratios_their_intervals(tables):
    speed = tables["proof_speed"]
    assert "| deit_small | 8 | 196 | 1.000 (1.100) | 8000 |  |  |  |  |" in speed
    assert (
        "| deit_small | 8 | 98 | 0.550 (0.600) | 14546 | 1.82 (1.80 to 1.84) | 1.40 (1.35 to 1.45) | 2.04 | 0.89 |"
        in speed
    )
    assert "NVIDIA H100" in speed and "TensorRT 8.6.0, Python 3.10.13, cuda-python." in speed
    assert "| deit_small | TensorRT, plugin | 8 | 98 | 0.550 (0.600) | 1.05 (1.03 to 1.07) |" in tables["proof_native"]


def test_engines_without_device_events_are_compared_end_to_end(tables):
    lines = [text for text in tables["proof_engines"].splitlines() if "ONNX Runtime CUDA" in text]
    assert lines == [
        "| deit_small | 8 | 98 | ONNX Runtime CUDA | 2.500 (2.700) | 2.50 | 1.20 (1.15 to 1.25) | 1.10 (1.05 to 1.15) |"
    ]


def test_int8_stands_beside_fp16_with_the_agreement_of_its_own_engine():
    row = next(r for r in DOCUMENT["rows"] if r["step"] == "native" and r["against"])
    changes = {"step": "int8-deit_small", "precision": "int8", "engine": "TensorRT, plugin, int8", "role": "filtered"}
    verdict = {"step": "int8-deit_small", "batch": 8, "tokens": 98, "passed": True, "same_top1": 0.875}
    verdicts = [
        {**verdict, "engine": "TensorRT, plugin, filtered at 98", "cosine": 1.0},
        {**verdict, "engine": "TensorRT, plugin, int8, filtered at 98", "cosine": 0.99691},
    ]
    table = int8_table({**DOCUMENT, "rows": [{**row, **changes}], "verdicts": verdicts})
    line = "| deit_small | int8 | TensorRT, plugin, int8 | 8 | 98 | 0.550 (0.600) | 14546 | 1.05 (1.03 to 1.07) |"
    assert line in table and table.split(line)[1].splitlines()[0].endswith("| 0.99691 | 88% |")
    assert int8_table({**DOCUMENT, "rows": [{**row, **changes}], "verdicts": verdicts[:1]}).count("|  |  |"), "unknown"


def test_attention_and_checks(tables):
    assert "| `deit_small.full.fp16.b8` | 12 | 12 | yes | 100 | `_gemm_mha_v2_0x1` |" in tables["proof_attention"]
    assert "| `deit_small.filtered.plugin.fp16.b8` | 12 | 0 | **no** | 160 |  |" in tables["proof_attention"]
    steps = tables["proof_steps"]
    assert "C++ library equal to Python, bit for bit: 1 of 2." in steps and "memcheck, `e`: 0 errors." in steps
    assert "| `sanitizer` | failed | 12 | no \\| \\<b\\>kernel\\</b\\> |" in steps, "text of a program is no markup"


def test_what_was_not_measured_says_so():
    empty = {**DOCUMENT, "rows": [], "verdicts": [], "attention": [], "answers": [], "memcheck": []}
    tables = dict(zip(PROOF_TABLES, (table for _, table in proof_tables(empty)), strict=True))
    assert tables["proof_speed"] == tables["proof_golden"] == "Not measured in this run: see the steps."


def test_pages_hold_the_tables_as_soon_as_a_run_is_recorded(tmp_path):
    page = "<!-- table: proof_speed --><!-- end of table -->"
    assert "Not measured yet: `make gpu-proof`." in page_with_tables(page, tmp_path)
    (tmp_path / "gpu-proof.json").write_text(json.dumps(DOCUMENT))
    assert "| deit_small | 8 | 98 |" in page_with_tables(page, tmp_path)
