"""Means of a known length become sums and quotients: the same bits, read by converters that know no axes as input."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tokfilter.export.means import means_as_sums
from tokfilter.export.onnx_file import save_graph


def outputs(graph, path, x):
    save_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("mean", "shape", "written"),
    [
        ("ReduceMean (x, axis)", "B,1,5", True),
        ("ReduceMean <keepdims = 0> (x, axis)", "B,5", True),
        ("ReduceMean (x, last_two)", "B,1,1", True),
        ("ReduceMean <keepdims = 0, noop_with_empty_axes = 1> (x, last_two)", "B", True),
        ("ReduceMean (x, first)", "1,7,5", False),
        ("ReduceMean (x)", "1,1,1", False),
    ],
)
def test_the_same_bits(mean, shape, written, tmp_path):
    graph = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 18]> g (float[B, 7, 5] x) => (float[{shape}] y) '
        f"<int64[1] axis = {{1}}, int64[2] last_two = {{-1, 1}}, int64[1] first = {{0}}> {{ y = {mean} }}"
    )
    for number, node in enumerate(graph.graph):
        node.name = f"mean_{number}"
    x = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
    before = outputs(graph.clone(), tmp_path / "before.onnx", x)
    rewritten = means_as_sums(graph)
    assert [node.op_type for node in rewritten.graph] == (["ReduceSum", "Div"] if written else ["ReduceMean"])
    np.testing.assert_array_equal(outputs(rewritten, tmp_path / "after.onnx", x), before)
