"""Execution providers of ONNX Runtime: availability, CUDA's options, and CUDA itself on a GPU."""

from dataclasses import replace
from itertools import product

import onnxruntime
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.model_files import find_entry, find_model_file
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.verification import verify


def opened(directory, provider):
    return open_session(directory, options=SessionOptions(threads=1, provider=provider))


def test_providers(export_directory):
    with pytest.raises(EngineError, match="provider must be one of cpu, cuda"), opened(export_directory, "tpu"):
        pass
    cuda = opened(export_directory, "cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingDependencyError, match="has no CUDAExecutionProvider; it has"), cuda:
            pass


@pytest.mark.parametrize("given", [{}, {"use_tf32": "1"}])
def test_fp32_on_cuda_has_tf32_off_by_default(export_directory, monkeypatch, given):
    """NVIDIA's wheels are loaded first, and their output is not on standard output."""
    seen = {}

    def started(path, options, providers):
        seen["providers"] = providers
        raise RuntimeError("fake")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: seen.setdefault("preloaded", True), raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", started)
    chosen = OnnxRuntimeSession(find_model_file(export_directory), provider="cuda", provider_options=given)
    with pytest.raises(EngineError, match="fake"), chosen:
        pass
    assert seen == {"preloaded": True, "providers": [("CUDAExecutionProvider", {"use_tf32": "0", **given})]}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_provider_equals_golden_on_a_gpu(bundle_file, tmp_path, precision):
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    export_bundle(bundle_file, tmp_path / "out", ExportOptions(precisions=(precision,)))
    options = SessionOptions(threads=1, provider="cuda", precision=precision)
    for role, budgets in (("filtered", (4, 8, 12, 16)), ("full", (16,))):
        chosen = find_model_file(tmp_path / "out", role, precision=precision)
        with open_session(tmp_path / "out", role, options) as session:
            for batch, k in product((1, 3), budgets):
                verdict = verify(session, chosen, golden_of(chosen.directory, chosen.manifest), batch, k)
                assert (verdict.batch, verdict.tokens) == (batch, k)


def test_a_graph_fused_for_cuda_is_taken_for_cuda_only(export_directory):
    manifest = load_manifest(export_directory)
    fused = [
        replace(entry, path=entry.path.replace(".onnx", ".cuda.onnx"), runtime="onnx-cuda")
        for entry in manifest.entries("filtered", "onnx")
        if entry.budget is None
    ]
    manifest = replace(manifest, files=[*fused, *manifest.files])

    def chosen(role, **wanted):
        return find_entry(manifest, role, "onnx", "fp32", **wanted).path

    assert chosen("filtered") == chosen("filtered", provider="tensorrt") == "model.onnx"
    assert chosen("filtered", provider="cuda") == "model.cuda.onnx"
    assert chosen("full", provider="cuda") == "full.onnx"  # without a fused one, the plain one
    assert chosen("filtered", tokens=8) == "model.k8.onnx"
    assert chosen("filtered", tokens=8, provider="cuda") == "model.cuda.onnx"
