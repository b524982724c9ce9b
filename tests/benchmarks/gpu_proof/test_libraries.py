"""The libraries that gpu-proof builds: for which GPU, and linked to which TensorRT."""

from io import StringIO
from types import SimpleNamespace

import pytest

from tokfilter.benchmarks.gpu_proof import native_library, prepare
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.errors import MissingDependencyError


def test_the_plugin_is_built_for_the_gpu_that_is_there(tmp_path, monkeypatch):
    """By number: CMake before 3.24, which Ubuntu 22.04 has, does not know the architecture "native"."""
    asked = []

    def build_plugin(target, tensorrt, architectures):
        asked.append(architectures)
        return SimpleNamespace(dynamic=target / "libtokfilter_plugin.so")

    monkeypatch.setattr(prepare, "build_plugin", build_plugin)
    found = {part: {"found": "/usr"} for part in ("nvcc", "cmake", "headers")}
    for gpu in ({"found": "NVIDIA H100 80GB HBM3, 9.0"}, {"found": "Orin, 8.7"}, {"missing": "no driver"}):
        prepare._plugin(Context(Settings(tmp_path), {**found, "gpu": gpu}, StringIO()))
    assert asked == ["90", "87", None]


def test_the_cpp_library_is_linked_to_the_tensorrt_that_python_has(tmp_path, monkeypatch):
    settings = Settings(tmp_path)
    monkeypatch.setattr(native_library, "wheel_libraries", lambda: None)
    assert native_library._tensorrt_libraries(settings) == []
    monkeypatch.setattr(native_library, "wheel_libraries", lambda: tmp_path)
    with pytest.raises(MissingDependencyError, match="has no libnvinfer"):
        native_library._tensorrt_libraries(settings)
    (tmp_path / "libnvinfer.so.10").touch()
    assert native_library._tensorrt_libraries(settings) == [tmp_path / "libnvinfer.so.10"]
