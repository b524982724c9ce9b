"""Engines of every form of graph: TensorRT-RTX builds them without a GPU, TensorRT in `make test-gpu`."""

import onnx_ir as ir
import pytest
from quantize_images import in_opset

from tokfilter.errors import EngineError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, without_functions
from tokfilter.export.layer_groups import groups_from_graph
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.precision import cast_precision, with_fp32_nodes
from tokfilter.export.quantize.nodes import linears_of, quantized_graph
from tokfilter.export.tensorrt8 import graph_for_tensorrt8
from tokfilter.trt.build import BuildOptions, build_engine
from tokfilter.trt.versions import way_of

RTX = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
OPTIONS = BuildOptions(batch=(1, 2, 4), budget=(1, 8, 16))


@pytest.fixture(scope="module")
def graphs(traced_graph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    made = {"slots": traced_graph.clone(), "full": full_graph_from_slots(traced_graph, 16)}
    for precision in ("fp16", "bf16"):
        made[precision] = cast_precision(traced_graph, precision)
    largest = {linear.activation: 4.0 for linear in linears_of(traced_graph)}
    for precision in ("int8", "fp8"):
        made[precision] = quantized_graph(in_opset(traced_graph, 19), precision, largest)
    made["fixed"] = fixed_graph_from_slots(made["fp16"], 5)
    groups = groups_from_graph(made["fp16"])
    made["mixed"] = with_fp32_nodes(made["fp16"], "fp16", [node for group in groups[::2] for node in group.nodes])
    made["8.6 slots"] = graph_for_tensorrt8(traced_graph, plugin=False)
    made["8.6 full"] = graph_for_tensorrt8(made["full"], plugin=False)
    fixed = fixed_graph_from_slots(traced_graph, 5)
    made["8.5 fixed"] = graph_for_tensorrt8(fixed, plugin=False, version="8.5")
    made["stripped"] = without_functions(traced_graph.clone())
    for name, graph in made.items():
        save_graph(graph, folder / f"{name}.onnx")
    return folder


@pytest.mark.parametrize(
    "form", ["slots", "full", "fp16", "bf16", "int8", "fp8", "fixed", "mixed", "8.6 slots", "8.6 full", "8.5 fixed"]
)
def test_rtx_builds_every_form_without_a_gpu(graphs, tmp_path, form):
    target = build_engine("tensorrt-rtx", graphs / f"{form}.onnx", tmp_path / "model.plan", OPTIONS)
    assert (tmp_path / "model.plan").stat().st_size > 10_000
    assert target["version"] == RTX.__version__
    assert target["plugin"] is None
    assert target["compute_capabilities"] == "all"


def test_rtx_builds_for_the_given_compute_capabilities(graphs, tmp_path):
    options = BuildOptions(batch=(1, 2, 4), budget=(1, 8, 16), compute_capabilities=("sm86", "SM89"))
    target = build_engine("tensorrt-rtx", graphs / "fp16.onnx", tmp_path / "model.plan", options)
    assert target["compute_capabilities"] == ["sm86", "SM89"]


def test_an_unknown_compute_capability_is_refused_with_the_known_ones(graphs, tmp_path):
    options = BuildOptions(batch=(1, 2, 4), budget=(1, 8, 16), compute_capabilities=("SM12",))
    with pytest.raises(EngineError, match=r"has no ComputeCapability SM12; it has .*SM89"):
        build_engine("tensorrt-rtx", graphs / "fp16.onnx", tmp_path / "model.plan", options)
    assert not (tmp_path / "model.plan").exists()


def test_a_graph_without_the_function_is_refused_with_a_remedy(graphs, tmp_path):
    with pytest.raises(
        EngineError, match=r"TensorRT-RTX [\d.]+ cannot read stripped.onnx: .*TokenSelect.*--strip-functions"
    ):
        build_engine("tensorrt-rtx", graphs / "stripped.onnx", tmp_path / "model.plan", OPTIONS)
    assert not (tmp_path / "model.plan").exists()


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x0anot a graph")
    with pytest.raises(EngineError, match=r"cannot read bad.onnx"):
        build_engine("tensorrt-rtx", tmp_path / "bad.onnx", tmp_path / "model.plan", OPTIONS)


def test_an_unknown_operator_is_named(tmp_path):
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18, "acme": 1]> g (float[N, 4] images) => (float[N, 4] logits)'
        "{ logits = acme.Frobnicate (images) }"
    )
    save_graph(graph, tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match="Frobnicate"):
        build_engine("tensorrt-rtx", tmp_path / "odd.onnx", tmp_path / "model.plan", OPTIONS)


@pytest.mark.gpu
@pytest.mark.parametrize("plugin", [False, True])
@pytest.mark.parametrize("form", ["slots", "full", "fp16", "bf16", "fixed", "mixed"])
def test_tensorrt_builds_every_form(graphs, tmp_path, form, plugin):
    module = pytest.importorskip("tensorrt", reason="TensorRT is not installed: pip install 'tokfilter[trt]'")
    if way_of(module).graph != "typed":
        pytest.skip("TensorRT 8 takes other graphs: tests/commands/test_engine.py builds and runs them")
    library = None
    if plugin:
        from tokfilter.kernels.build import plugin_path

        library = plugin_path()
    options = BuildOptions((1, 2, 4), (1, 8, 16), plugin=library, timing_cache=tmp_path / "timing.cache", workspace=512)
    first = build_engine("tensorrt", graphs / f"{form}.onnx", tmp_path / "model.plan", options)
    assert (tmp_path / "timing.cache").stat().st_size > 0
    assert first["plugin"] == (library.name if library else None)
    again = BuildOptions((1, 2, 4), (1, 8, 16), plugin=library, version_compatible=True, hardware="ampere+")
    second = build_engine("tensorrt", graphs / f"{form}.onnx", tmp_path / "portable.plan", again)
    assert second["plugin"] == ("serialized" if library else None)
    assert (tmp_path / "portable.plan").stat().st_size > (tmp_path / "model.plan").stat().st_size
