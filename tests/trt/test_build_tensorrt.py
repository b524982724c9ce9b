"""Building with TensorRT, on a fake: no GPU and no TensorRT are needed."""

import sys

import pytest
from fake_tensorrt_py import FakeLogger, fake_builder_module

from tokfilter.errors import MissingDependencyError
from tokfilter.trt.build import BuildOptions, build_engine


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
