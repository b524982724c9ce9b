"""Sessions on a fake TensorRT, so that their own logic runs on a CPU."""

import shutil
from dataclasses import replace

import pytest
from fake_cuda import HostCuda
from fake_tensorrt_py import FakeTensorRT

from tokfilter.artifacts.manifest import entry_from_file, load_manifest
from tokfilter.runtime import tensorrt_session
from tokfilter.runtime.model_files import ModelFile

PROFILES = [((1, 2, 4), (1, 8, 16)), ((1, 1, 1), (4, 8, 12))]


@pytest.fixture
def source(export_directory):
    """The export directory that the plan belongs to."""
    return export_directory


@pytest.fixture
def plan(source, tmp_path):
    """A model file that is a plan; its content is not read by the fake engine."""
    shutil.copytree(source, tmp_path / "out")
    (tmp_path / "out" / "model.plan").write_bytes(b"a plan")
    entry = entry_from_file(tmp_path / "out", "model.plan", "filtered", runtime="tensorrt", precision="fp32")
    return ModelFile(tmp_path / "out", load_manifest(tmp_path / "out"), replace(entry, budget_range=(1, 8, 16)))


@pytest.fixture
def fake(plan, monkeypatch):
    module = FakeTensorRT(plan.directory / "model.onnx", PROFILES)

    def cuda_from_name(name, device=0):
        module.device = HostCuda()
        return module.device

    monkeypatch.setattr(tensorrt_session, "tensorrt_module", lambda runtime: module)
    monkeypatch.setattr(tensorrt_session, "cuda_from_name", cuda_from_name)
    monkeypatch.setattr(tensorrt_session, "engine_from_plan", lambda *_: (module.engine, None))
    monkeypatch.setattr(tensorrt_session, "Graphs", lambda: module)
    return module
