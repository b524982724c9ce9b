"""NVML through a fake of nvidia-ml-py, and without it."""

import sys

import pytest
from fake_nvml import install_fake_nvml

from tokfilter.trt.build import _gpu_name
from tokfilter.trt.gpus import Gpu, driver_version, gpus, nvml


@pytest.fixture
def pynvml(monkeypatch):
    return install_fake_nvml(monkeypatch)


def test_a_gpu_is_described_with_its_units_and_nvml_is_stopped(pynvml):
    assert gpus() == [Gpu("Fake GPU", "GPU-0", "9.0", 2**30, 1980, 300.0)]
    assert driver_version() == "580.0"
    assert pynvml.started == 0


def test_values_that_a_gpu_does_not_report_are_none(pynvml):
    def refuse(*_):
        raise RuntimeError("Not Supported")

    pynvml.nvmlDeviceGetMemoryInfo = pynvml.nvmlDeviceGetPowerManagementLimit = refuse
    pynvml.nvmlDeviceGetUUID = pynvml.nvmlDeviceGetCudaComputeCapability = refuse
    assert gpus() == [Gpu("Fake GPU", None, None, None, 1980, None)]


@pytest.mark.parametrize("broken", ["no package", "no driver"])
def test_without_nvml_there_are_no_gpus(pynvml, monkeypatch, broken):
    def refuse():
        raise RuntimeError("Driver Not Loaded")

    if broken == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        pynvml.nvmlInit = refuse
    with nvml() as library:
        assert library is None
    assert gpus() == [] and driver_version() is None and _gpu_name() is None


def test_an_engine_names_its_gpu_only_where_all_gpus_are_alike(pynvml):
    assert _gpu_name() == "Fake GPU, 9.0"
    pynvml.denied = set()
    assert _gpu_name() == "Fake GPU, 9.0"
    pynvml.names, pynvml.capabilities = ["Fake GPU", "Other GPU"], [(9, 0), (8, 9)]
    assert _gpu_name() is None


@pytest.mark.gpu
def test_nvml_describes_a_real_gpu():
    pytest.importorskip("pynvml")
    found = gpus()
    assert found and found[0].name and found[0].memory_bytes > 2**30
    assert driver_version()
