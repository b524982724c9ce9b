"""Building with TensorRT, on a fake: no GPU and no TensorRT are needed."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_tensorrt_py import FakeLogger, fake_builder_module

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.trt import build
from tokfilter.trt.build import BuildOptions, build_engine
from tokfilter.trt.network import Network


def test_without_a_gpu_the_error_names_where_to_build(monkeypatch, tmp_path):
    """TensorRT's Builder returns a null pointer there, which pybind11 turns into a TypeError."""

    class Builder:
        def __init__(self, logger):
            logger.log(FakeLogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    module = fake_builder_module()
    module.Builder = Builder
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(MissingDependencyError, match=r"error: 35.*on that machine.*--rtx builds without a GPU"):
        build_engine("tensorrt", tmp_path / "model.onnx", tmp_path / "model.plan", BuildOptions((1, 2, 4), (1, 8, 16)))


def test_tensorrt_takes_the_plugin_limits_and_profile(monkeypatch, tmp_path):
    module = fake_builder_module()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "timing.cache").write_bytes(b"of another GPU")
    options = BuildOptions(
        (1, 2, 4),
        (1, 8, 16),
        plugin=tmp_path / "libtokfilter_plugin.so",
        workspace=512,
        timing_cache=tmp_path / "timing.cache",
        version_compatible=True,
        hardware="ampere+",
    )
    target = build_engine("tensorrt", tmp_path / "model.onnx", tmp_path / "model.plan", options)
    assert (tmp_path / "model.plan").read_bytes() == b"a graph"
    assert module.config.shapes == {
        "images": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32)),
        "slots": ((1,), (8,), (16,)),
    }
    assert module.config.flags == ["version compatible"], "TF32, TensorRT's default for fp32, is off"
    assert module.libraries == module.config.plugins_to_serialize == [str(options.plugin)]
    assert module.config.limits == {"workspace": 512 << 20} and module.config.hardware_compatibility_level == 1
    assert (tmp_path / "timing.cache").read_bytes() == b"timings", "a cache of another GPU is replaced"
    gpu = target.pop("gpu")
    assert gpu is None or ", " in gpu
    assert target == {
        "version": "10.13.0",
        "plugin": "serialized",
        "version_compatible": True,
        "hardware": "ampere+",
    }


def layer(name, node, dtype="fp32"):
    made = SimpleNamespace(
        name=name, metadata=f"[ONNX Layer: {node}]", type="other", num_inputs=0, num_outputs=1, precision=None, types={}
    )
    made.get_output = lambda index: SimpleNamespace(name=f"{node}:{index}", dtype=dtype)
    made.set_output_type = made.types.__setitem__
    return made


@pytest.fixture
def plain_graph(tmp_path):
    """A graph file without functions: its bytes are one unknown field, which protobuf skips."""
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    return tmp_path / "model.onnx"


def test_8_6_builds_fp16_by_flags_and_names_of_layers(monkeypatch, tmp_path, plain_graph):
    norm, product = layer("norm", "blocks.0.norm1/LayerNormalization"), layer("product", "blocks.0.attn.qkv/MatMul")
    module = fake_builder_module("8.6.0", layers=[norm, product])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    options = BuildOptions(
        (1, 2, 4),
        (1, 8, 16),
        precision="fp16",
        fp32_layers=("blocks.0.norm1/LayerNormalization", "computed/by/the/parser"),
        plugin=tmp_path / "libtokfilter_plugin.so",
        version_compatible=True,
    )
    target = build_engine("tensorrt", plain_graph, tmp_path / "model.plan", options)
    assert module.network_flags == 1, "explicit batch"
    assert module.config.flags == ["version compatible", "FP16", "obey"], "TF32 is off"
    assert (module.config.tactic_sources, module.config.preview_features) == (0, {"profile sharing": True})
    assert (norm.precision, norm.types, product.precision) == ("fp32", {0: "fp32"}, None)
    assert module.libraries == module.config.plugins_to_serialize == [str(options.plugin)]
    target.pop("gpu")
    assert target == {
        "version": "8.6.0",
        "plugin": "serialized",
        "version_compatible": True,
        "hardware": "none",
        "graph": "tensorrt-8.6",
        "plugin_interface": "IPluginV2DynamicExt",
        "shared_profiles": True,
        "fp32_layers": ["blocks.0.norm1/LayerNormalization"],
    }


@pytest.mark.parametrize(("precision", "flags"), [("fp32", []), ("fp16", ["FP16"]), ("int8", ["FP16", "INT8"])])
def test_8_6_obeys_nothing_where_no_layer_is_named(monkeypatch, tmp_path, plain_graph, precision, flags):
    module = fake_builder_module("8.6.1", layers=[layer("a", "a/MatMul")])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    build_engine("tensorrt", plain_graph, tmp_path / "model.plan", BuildOptions((1, 2, 4), (1, 8, 16), precision))
    assert module.config.flags == flags


@pytest.mark.parametrize(
    ("version", "changes", "words"),
    [
        ("8.6.0", {"precision": "bf16"}, r"TensorRT 8.6.0 has no bf16: expected fp32, fp16 or int8.*10.3 or later"),
        (
            "8.6.0",
            {"hardware": "same-cc"},
            r"8.6.0 has no HardwareCompatibilityLevel SAME_COMPUTE_CAPABILITY; it has A",
        ),
        ("10.13.0", {"fp32_layers": ("a",)}, r"TensorRT 10.13.0 takes every layer's type from the graph; got 1 layers"),
        ("8.5.2", {}, r"TensorRT 8.5.2 builds with trtexec.*docs/tensorrt-8.md"),
        ("9.3.0", {}, r"TensorRT 9.3.0 is not supported: expected 8.5, 8.6, 10.3"),
    ],
)
def test_what_a_version_does_not_build_is_said_before_it_is_asked(
    monkeypatch, tmp_path, plain_graph, version, changes, words
):
    module = fake_builder_module(version)
    module.OnnxParser = None
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    if "hardware" in changes:
        module.OnnxParser = fake_builder_module(version).OnnxParser
    options = replace(BuildOptions((1, 2, 4), (1, 8, 16)), **changes)
    with pytest.raises(EngineError, match=words):
        build_engine("tensorrt", plain_graph, tmp_path / "model.plan", options)
    assert not (tmp_path / "model.plan").exists()


def test_a_graph_with_functions_is_refused_before_8_6_reads_it(monkeypatch, tmp_path, traced_graph):
    from tokfilter.export.onnx_file import save_graph

    module = fake_builder_module("8.6.0")
    module.OnnxParser = None
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    save_graph(traced_graph.clone(), tmp_path / "model.onnx")
    with pytest.raises(
        EngineError, match=r"8.6.0 reads no model-local functions, and model.onnx has some.*tokfilter eng"
    ):
        build_engine("tensorrt", tmp_path / "model.onnx", tmp_path / "model.plan", BuildOptions((1, 2, 4), (1, 8, 16)))


def test_a_missing_driver_is_a_warning_in_8_6_and_named_all_the_same(monkeypatch, tmp_path):
    class Builder:
        def __init__(self, logger):
            logger.log(FakeLogger.Severity.WARNING, "CUDA initialization failure with error: 35. Please check")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    module = fake_builder_module("8.6.0")
    module.Builder = Builder
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(MissingDependencyError, match=r"TensorRT 8.6.0 builds engines on the GPU .*error: 35"):
        build_engine("tensorrt", tmp_path / "model.onnx", tmp_path / "model.plan", BuildOptions((1, 2, 4), (1, 8, 16)))


@pytest.mark.parametrize(
    ("precision", "layers", "refused"),
    [("fp16", (), True), ("int8", (), True), ("fp32", (), False), ("fp16", ("a",), False), ("int8", ("a",), False)],
)
def test_8_6_refuses_a_plan_of_fp16_or_int8_whose_weights_stayed_in_fp32(
    monkeypatch, tmp_path, plain_graph, precision, layers, refused
):
    """As on an H100, where blocks at a range of tokens have no fp16 kernels."""
    monkeypatch.setattr(build, "_SMALL_GRAPH", 1)
    size, plan = plain_graph.stat().st_size, tmp_path / "model.plan"
    options = BuildOptions((1, 2, 4), (37, 98, 196), precision=precision, fp32_layers=layers)

    def build_plan(length):
        monkeypatch.setitem(sys.modules, "tensorrt", fake_builder_module("8.6.0", layers=[layer("one", "a")]))
        monkeypatch.setattr(Network, "build", lambda *_: bytes(length))
        build_engine("tensorrt", plain_graph, plan, options)

    if refused:
        with pytest.raises(EngineError, match=rf"no {precision} kernels for .* at 37 to 196 tokens.*--budget 98:98:98"):
            build_plan(size)
        assert not plan.exists()
    else:
        build_plan(size)
    build_plan(size // 2)
    assert plan.stat().st_size == size // 2
