from fake_cuda import FakeDriver

from tokfilter.commands import machine_check as doctor
from tokfilter.runtime import cuda_bindings


def test_what_is_missing_has_a_remedy():
    for group in doctor.examine()["findings"].values():
        for finding in group:
            assert finding["found"] or finding["remedy"]


def test_abilities_follow_from_findings(monkeypatch):
    monkeypatch.setattr(doctor, "_package", lambda name, extra: doctor.Finding(name, None, extra))
    abilities = {a["name"]: a["missing"] for a in doctor.examine()["abilities"]}
    assert abilities["export to ONNX"] == ["torch", "timm", "onnx", "onnxscript", "onnxruntime"]
    monkeypatch.setattr(doctor, "_package", lambda name, extra: doctor.Finding(name, "1.0"))
    abilities = {a["name"]: a["missing"] for a in doctor.examine()["abilities"]}
    assert abilities["export to ONNX"] == []


def test_every_ability_wants_something_that_is_looked_for():
    names = {finding["name"] for group in doctor.examine()["findings"].values() for finding in group}
    assert {want for wants in doctor._ABILITIES.values() for want in wants} <= names


def test_other_names_of_a_package_count(monkeypatch):
    def installed(name):
        if name == "onnxruntime-gpu":
            return "9.9"
        raise doctor.PackageNotFoundError

    monkeypatch.setattr(doctor, "version", installed)
    assert doctor._package("onnxruntime", "runtime").found == "9.9"
    assert doctor._package("torch", "train") == doctor.Finding("torch", None, "pip install 'tokfilter[train]'")


def test_a_library_that_does_not_load_is_missing():
    def broken():
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert doctor._guarded(broken) is None
    assert doctor._program("x", ["no-such-program-anywhere"], "get it").found is None


def test_a_gpu_is_found_through_the_driver_alone(monkeypatch):
    class Driver(FakeDriver):
        def cuDeviceGetName(self, name, size, device):  # noqa: N802
            name.value = b"Fake GPU"

        def cuDriverGetVersion(self, release):  # noqa: N802
            release._obj.value = 12060

    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", lambda name: Driver(devices=2))
    assert doctor._gpu().found == "Fake GPU and 1 more, driver for CUDA 12.6"
    monkeypatch.setattr(cuda_bindings.ctypes, "CDLL", lambda name: Driver(devices=0))
    assert doctor._gpu().found is None and "NVIDIA driver" in doctor._gpu().remedy
