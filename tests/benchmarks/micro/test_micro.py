"""The micro-benchmark without a GPU: bytes, statistics, and equal selections of all methods."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from tokfilter.benchmarks.__main__ import cli
from tokfilter.benchmarks.micro import program as micro
from tokfilter.benchmarks.micro.cases import CASES, Measurement, TimingCase, gigabytes_per_second, table, without_floor
from tokfilter.benchmarks.micro.graphs import native_graph, plugin_graph, topk_last_dim_graph
from tokfilter.benchmarks.micro.methods import METHODS, example, torch_call
from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.op import ATTRIBUTES, DOMAIN, NAME
from tokfilter.kernels.reference import token_select

SMALL = [
    TimingCase("one row", 1, 1, 1, 1, "float32", 0),
    TimingCase("odd", 3, 7, 3, 5, "float16", 0),
    TimingCase("all kept", 2, 9, 9, 4, "float32", 5),
    TimingCase("DeiT-S", 2, 196, 98, 24, "float16", 1),
]


def test_minimum_bytes_by_hand() -> None:
    # 2 images: 6 scores of 4 bytes; 1 + 3 rows of 8 elements of 2 bytes, read and written.
    assert TimingCase("x", 2, 6, 3, 8, "float16", 1).minimum_bytes == 2 * (6 * 4 + 2 * 4 * 8 * 2)
    assert TimingCase("x", 2, 6, 3, 8, "float32", 0).minimum_bytes == 2 * (6 * 4 + 2 * 3 * 8 * 4)


def test_cases_are_the_models_batches_and_types_once_each() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 18
    assert {(case.batch, case.dtype) for case in CASES} == set(product((1, 8, 64), ("float32", "float16")))


def test_bandwidth_and_floor() -> None:
    assert gigabytes_per_second(1_000_000, 10) == pytest.approx(100)
    assert gigabytes_per_second(1, 0) == float("inf")
    assert without_floor([5.0, 2.0, 1.0], 2.0) == [3.0, 0.0, 0.0]


def test_an_entry_has_fractions_of_the_copy_bandwidth() -> None:
    case = TimingCase("x", 1, 500, 499, 1000, "float16", 1)  # 2,002,000 bytes
    entry = Measurement("m", [10.0] * 9 + [1000.0], [22.0] * 10).as_dict(case, peak_gb_s=400.0, floor_us=2.0)
    assert entry["warm"]["microseconds"]["median"] == 10.0
    assert entry["warm"]["gb_s"] == pytest.approx(200.2)
    assert entry["cold"]["gb_s"] == pytest.approx(100.1)
    assert entry["cold"]["share_of_copy_bandwidth"] == pytest.approx(0.25025)
    assert "unstable" in entry["warm"]["warnings"][0]
    assert entry["cold"]["warnings"] == []


def test_a_time_of_zero_gives_no_bandwidth() -> None:
    entry = Measurement("m", [1.0], [1.0]).as_dict(SMALL[0], peak_gb_s=400.0, floor_us=2.0)
    assert entry["cold"]["gb_s"] is None
    assert entry["cold"]["share_of_copy_bandwidth"] is None


def test_the_table_has_skipped_methods_with_the_reason() -> None:
    case = SMALL[1]
    methods = [
        Measurement("fast", [3.0], [5.0]).as_dict(case, 400.0, 1.0),
        Measurement("absent", skipped="no such plugin").as_dict(case, 400.0, 1.0),
    ]
    text = table([{"case": case.name, "minimum_bytes": case.minimum_bytes, "methods": methods}])
    assert "odd 3 of 7, batch 3, float16" in text
    assert "warm      3.00 us" in text
    assert "cold      4.00 us" in text
    assert "skipped: no such plugin" in text


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.model)
def test_baselines_select_what_the_reference_selects(case: TimingCase) -> None:
    tokens, scores = example(case, "cpu")
    expected, _ = token_select(tokens.numpy(), scores.numpy(), case.k, case.prefix_tokens, "score")
    assert np.array_equal(torch_call(case, tokens, scores)().numpy(), expected)
    graph = native_graph(case)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"tokens": tokens.numpy(), "scores": scores.numpy()})[0]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("order", ["position", "score"])
def test_methods_are_compared_with_the_reference_in_their_order(order: str) -> None:
    case = SMALL[3]
    tokens, scores = example(case, "cpu")
    method = next(m for m in METHODS.values() if m.order == order)
    expected, _ = token_select(tokens.numpy(), scores.numpy(), case.k, case.prefix_tokens, order)
    assert np.array_equal(method.expected(case, tokens, scores).numpy(), expected)


def test_plugin_graphs_have_the_plugins_names_and_no_function() -> None:
    case = SMALL[3]
    model = plugin_graph(case, "score")
    assert not model.functions
    node = model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (node.domain, node.op_type, len(node.output)) == (DOMAIN, NAME, 2)
    assert attributes.keys() - ATTRIBUTES.keys() == {"plugin_namespace", "plugin_version"}
    assert (attributes["k"], attributes["order"], attributes["plugin_namespace"]) == (98, b"score", b"tokfilter")
    baseline = topk_last_dim_graph(case).graph.node[0]
    assert baseline.op_type == "TopkLastDim"
    assert {a.name for a in baseline.attribute} >= {"type_id", "k", "is_largest", "axis"}


BUILDS = """
import sys
import tensorrt_rtx as module
from tokfilter.benchmarks.micro.cases import TimingCase
from tokfilter.benchmarks.micro.methods import plan_from_graph
from tokfilter.benchmarks.micro.graphs import native_graph, plugin_graph
from tokfilter.errors import EngineError

case = TimingCase("small", 2, 196, 98, 24, "float16")
assert plan_from_graph(module, native_graph(case).SerializeToString()).nbytes > 0
try:
    plan_from_graph(module, plugin_graph(case, "position").SerializeToString())
except EngineError as error:
    sys.exit(0 if "cannot read the graph" in str(error) and "Plugin not found" in str(error) else str(error))
sys.exit("a graph without its plugin was built")
"""


def test_tensorrt_rtx_builds_the_native_graph_and_refuses_a_missing_plugin() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the wheel tensorrt-rtx-cu13, which builds without a GPU")
    result = subprocess.run([sys.executable, "-c", BUILDS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_command_fails_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="needs an NVIDIA GPU"):
        micro.gpu_report(CASES, None, 1)
    result = CliRunner().invoke(cli, ["micro", "-o", str(tmp_path / "gpu-report.json")])
    assert result.exit_code == MissingDependencyError.exit_code
    assert "needs an NVIDIA GPU" in result.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_case_is_a_usage_error() -> None:
    result = CliRunner().invoke(micro.main, ["--case", "ResNet"])
    assert result.exit_code == 2
    assert "no case has ResNet" in result.output


@pytest.mark.gpu
def test_every_method_is_measured_or_skipped_with_a_reason() -> None:
    case = TimingCase("DeiT-S", 8, 196, 98, 384, "float16")
    report = json.loads(json.dumps(micro.gpu_report([case], None, samples=20)))
    (row,) = report["rows"]
    assert row["minimum_bytes"] == case.minimum_bytes
    assert [entry["method"] for entry in row["methods"]] == list(METHODS)
    assert report["settings"]["copy_gb_s"] > 1
    for entry in row["methods"]:
        if "skipped" not in entry:
            assert 0 < entry["warm"]["microseconds"]["median"] < 1e5
            assert 0 < entry["cold"]["gb_s"] < 1.2 * report["settings"]["copy_gb_s"]
    measured = {entry["method"] for entry in row["methods"] if "skipped" not in entry}
    assert {"tokfilter kernel, by position", "tokfilter kernel, by score", "torch topk + gather + cat"} <= measured
