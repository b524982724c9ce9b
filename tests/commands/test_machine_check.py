import sys

import pytest
from fake_cuda import FakeDriver
from fake_tensorrt_py import fake_builder_module

from tokfilter.artifacts.extras import extras
from tokfilter.commands import machine_check
from tokfilter.runtime import cuda_bindings


def test_what_is_missing_has_a_remedy():
    for group in machine_check.machine_report()["findings"].values():
        for finding in group:
            assert finding["found"] or finding["remedy"]


def test_abilities_follow_from_findings(monkeypatch):
    monkeypatch.setattr(machine_check, "_package", lambda name: machine_check.Finding(name, None))
    abilities = {a["name"]: a["missing"] for a in machine_check.machine_report()["abilities"]}
    assert abilities["export to ONNX"] == ["torch", "timm", "onnx", "onnxscript", "onnx-ir", "onnxruntime"]
    monkeypatch.setattr(machine_check, "_package", lambda name: machine_check.Finding(name, "1.0"))
    abilities = {a["name"]: a["missing"] for a in machine_check.machine_report()["abilities"]}
    assert abilities["export to ONNX"] == []


def test_every_part_of_an_ability_is_looked_for():
    names = {finding["name"] for group in machine_check.machine_report()["findings"].values() for finding in group}
    assert {part for parts in machine_check._PARTS.values() for part in parts} <= names


def test_every_package_belongs_to_an_extra_of_the_metadata():
    packages = {finding["name"] for finding in machine_check.machine_report()["findings"]["packages"]}
    assert packages <= set().union(*extras().values())


def test_other_names_of_a_package_count(monkeypatch):
    def installed(name):
        if name == "onnxruntime-gpu":
            return "9.9"
        raise machine_check.PackageNotFoundError

    monkeypatch.setattr(machine_check, "version", installed)
    assert machine_check._package("onnxruntime").found == "9.9"
    assert machine_check._package("torch") == machine_check.Finding("torch", None, "pip install 'tokfilter[train]'")


@pytest.mark.parametrize(
    ("version", "found", "remedy"),
    [
        ("8.6.0", "8.6.0 (graphs: tensorrt-8.6, plugin: IPluginV2DynamicExt)", ""),
        ("10.13.0", "10.13.0 (graphs: typed, plugin: IPluginV3)", ""),
        ("8.5.2", None, "8.5.2 builds with trtexec: docs/tensorrt-8.md"),
        ("9.3.0", None, "TensorRT 9.3.0 is not supported: expected 8.5, 8.6, 10.3"),
    ],
)
def test_the_version_of_tensorrt_says_how_engines_are_built(monkeypatch, version, found, remedy):
    monkeypatch.setattr(machine_check, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "tensorrt", fake_builder_module(version))
    finding = machine_check._package("tensorrt")
    assert finding.found == found and finding.remedy.startswith(remedy)


def test_tensorrt_for_another_python_is_missing_and_the_interpreter_is_named(monkeypatch):
    def fail(name):
        raise ImportError("Python version mismatch: module was compiled for Python 3.10, but the interpreter is 3.11.7")

    monkeypatch.setattr(machine_check, "find_spec", lambda name: object())
    monkeypatch.setattr("tokfilter.trt.module.import_module", fail)
    finding = machine_check._package("tensorrt")
    assert finding.found is None and "run tokfilter with Python 3.10" in finding.remedy


def test_a_library_that_does_not_load_is_missing():
    def broken():
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert machine_check._or_none(broken) is None
    assert machine_check._program("x", ["no-such-program-anywhere"], "get it").found is None


def test_a_gpu_is_found_through_the_driver_alone(monkeypatch):
    class Driver(FakeDriver):
        def cuDeviceGetName(self, name, size, device):  # noqa: N802
            name.value = b"Fake GPU"

        def cuDriverGetVersion(self, release):  # noqa: N802
            release._obj.value = 12060

    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", lambda name: Driver(devices=2))
    assert machine_check._gpu().found == "Fake GPU and 1 more, driver for CUDA 12.6"
    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", lambda name: Driver(devices=0))
    assert machine_check._gpu().found is None and "NVIDIA driver" in machine_check._gpu().remedy
