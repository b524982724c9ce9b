"""The graphs of an export as other programs take them: standard operators, and nothing that their readers refuse."""

import re

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from tokfilter.export.onnx_file import cpu_session

NAMES = ["model.onnx", "model.k8.onnx", "full.onnx"]


def cases(name):
    """Batches 1 and 3, at a quarter of the tokens, half and all of them."""
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    for batch in (1, 3):
        for k in (4, 8, 16) if name == "model.onnx" else (None,):
            slots = {} if k is None else {"slots": np.zeros(k, np.int32)}
            yield {"images": images[:batch]} | slots


def assert_same(path, run, name):
    session = cpu_session(path, "fp32")
    for feeds in cases(name):
        for found, expected in zip(run(feeds), session.run(None, feeds), strict=True):
            if expected.dtype == np.int32:
                np.testing.assert_array_equal(found, expected)
            else:
                np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_standard_operators_with_names_for_all(export_directory, name):
    model = onnx.load(export_directory / name)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not model.functions and {node.domain for node in model.graph.node} == {""}
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert all(value for node in model.graph.node for value in node.output)
    assert "ReduceMean" not in {node.op_type for node in model.graph.node}
    weights = {weight.name for weight in model.graph.initializer}
    assert not weights & {value.name for value in model.graph.value_info}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_free_stays_free_in_the_shapes_of_a_file(export_directory, name):
    """tract takes a number in value_info for granted."""
    model = onnx.load(export_directory / name)
    (images, *_) = model.graph.input
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"
    lengths = {"model.onnx": {"batch", "kept"}}.get(name, {"batch"})
    for value in [*model.graph.value_info, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        free = {word for dim in dims for word in re.findall("[a-z]+", dim.dim_param)}
        assert free <= lengths
        assert len(dims) < 3 or "batch" in free, value.name


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_evaluator_gives_the_same(export_directory, name):
    evaluator = ReferenceEvaluator(str(export_directory / name))
    assert_same(export_directory / name, lambda feeds: evaluator.run(None, feeds), name)


@pytest.mark.parametrize("name", NAMES)
def test_openvino_gives_the_same(export_directory, name):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'tokfilter[openvino]'")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(export_directory / name, "CPU", exact)
    assert_same(export_directory / name, lambda feeds: list(compiled(feeds).values()), name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_tract_reads_a_file_whose_budget_is_fixed_as_it_is(export_directory, name):
    tract = pytest.importorskip("tract", reason="tract is not installed: pip install tract")
    graph = tract.onnx().load(str(export_directory / name))
    graph.analyse()
    runnable = graph.into_model().into_runnable()  # the batch is open
    assert_same(
        export_directory / name, lambda feeds: [out.to_numpy() for out in runnable.run(list(feeds.values()))], name
    )


@pytest.mark.parametrize("name", NAMES)
def test_tract_takes_every_file_for_given_shapes(export_directory, tmp_path, name):
    """Where the batch is fixed, tract refuses shapes between nodes that name the open one: they are taken out."""
    model = onnx.load(export_directory / name)
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / name)
    tract = pytest.importorskip("tract", reason="tract is not installed: pip install tract")

    def run(feeds):
        graph = tract.onnx().load(str(tmp_path / name))
        for i, value in enumerate(feeds.values()):
            kind = "f32" if value.dtype == np.float32 else "i32"
            graph.set_input_fact(i, ",".join(map(str, value.shape)) + f",{kind}")
        graph.analyse()
        return [output.to_numpy() for output in graph.into_model().into_runnable().run(list(feeds.values()))]

    assert_same(export_directory / name, run, name)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtimes_quantizers_take_it(export_directory, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # quant_pre_process leaves files in the working directory
    quant_pre_process(export_directory / name, tmp_path / "ready.onnx")
    ready = cpu_session(tmp_path / "ready.onnx", "fp32")
    assert_same(export_directory / name, lambda feeds: ready.run(None, feeds), name)
    for source in (export_directory / name, tmp_path / "ready.onnx"):
        quantize_dynamic(source, tmp_path / "int8.onnx")
        operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
        assert "MatMulInteger" in operators
        session = cpu_session(tmp_path / "int8.onnx", "fp32")
        for feeds in cases(name):
            assert all(np.isfinite(output).all() for output in session.run(None, feeds))
