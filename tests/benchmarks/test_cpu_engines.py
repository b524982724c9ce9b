"""The document of cpu-engines on the small model: every engine that runs here, and why the others do not."""

import json

import pytest
from click.testing import CliRunner
from openvino_exports import NEEDED
from schema_check import valid

from tokfilter.benchmarks import cpu_engines
from tokfilter.benchmarks.cpu_engines import ENGINES, document_from_export, main
from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.records.cpu_tables import cpu_engines_table, cpu_figures_table
from tokfilter.runtime.comparison.rounds import BenchConfig

CONFIG = BenchConfig(0.02, 0.0, 0.01)


@pytest.fixture(scope="module")
def document(export_directory, bundle_file, tmp_path_factory):
    pytest.importorskip("openvino", reason=NEEDED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return valid(document_from_export(export_directory, 1, CONFIG, "typed", bundle_file))


def test_rows_of_every_engine_that_runs_here(document):
    measured = {(row["engine"], row["precision"]) for row in document["rows"]}
    absent = {(row["engine"], row["precision"]) for row in document["absent"]}
    assert measured | absent == set(ENGINES) and not measured & absent
    assert {("onnx", "fp32"), ("openvino", "fp32")} <= measured
    assert ("onnx", "int8") in absent, "this export has no int8 graphs"
    for name in measured:
        rows = [row for row in document["rows"] if (row["engine"], row["precision"]) == name]
        assert [(row["batch"], row["tokens"]) for row in rows] == [(1, 16), (1, 8), (8, 16), (8, 8)]
        assert all((row["over_first"] is None) == (name == ENGINES[0]) for row in rows)
    assert [row["batch"] for row in document["baseline"]] == [1, 8]


def test_reasons_have_no_folder_of_this_machine(document, export_directory):
    reasons = {(row["engine"], row["precision"]): row["reason"] for row in document["absent"]}
    assert "no full onnx model in int8" in reasons["onnx", "int8"]
    assert all(reasons.values()), "bf16 too, where the processor has no instructions for it"
    assert str(export_directory.parent) not in json.dumps(document)


def test_figures_are_measured_or_say_that_they_are_not(document):
    assert len(document["figures"]) == 2 + 2 + 2 + 2 * len(ENGINES)
    for figure in document["figures"]:
        assert (figure["met"] is None) == (figure["measured"] is None)
        if figure["measured"] is not None:
            assert figure["met"] == (figure["measured"] >= float(figure["wanted"].removeprefix(">= ")))
    by_name = {figure["name"]: figure for figure in document["figures"]}
    assert by_name["onnx int8 over ONNX Runtime fp32, half of the tokens, batch 8"]["measured"] is None
    assert by_name["openvino fp32: speed-up over the MAC ratio, half of the tokens, batch 8"]["measured"] > 0


def test_tables(document):
    table = cpu_engines_table(document)
    assert "| PyTorch eager fp32 | 1 | 16 |" in table and "| OpenVINO fp32 | 8 | 8 |" in table
    assert "Not measured: ONNX Runtime int8: the export directory has no full onnx model in int8" in table
    assert "openvino 20" in table
    assert "| not measured |" in cpu_figures_table(document)


def test_the_program_writes_the_document(document, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_engines, "document_from_export", lambda *arguments: document)
    done = CliRunner().invoke(main, ["--export", str(tmp_path), "-o", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    assert document_from_file(tmp_path / "found.json", "tokfilter/cpu-engines") == json.loads(json.dumps(document))
    assert "torch-eager fp32" in done.output and "not measured" in done.output


def test_a_bundle_needs_an_export(bundle_file):
    done = CliRunner().invoke(main, ["--bundle", str(bundle_file)])
    assert done.exit_code != 0 and "give --export DIRECTORY too" in str(done.exception)
