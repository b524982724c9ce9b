"""PyTorch sessions on a CPU: eager and compiled, against the golden tensors."""

import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.torch_session import TorchSession
from tokfilter.runtime.verification import verify


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_equal_the_golden_tensors(bundle_file, export_directory, compiled):
    manifest = load_manifest(export_directory)
    golden = golden_of(export_directory, manifest)
    with TorchSession(bundle_file, "filtered", manifest, compiled=compiled) as session:
        for batch, k in ((1, 8), (2, 8), (2, 4)):
            verdict = verify(session, ModelFile(export_directory, manifest, session.entry), golden, batch, k)
            assert verdict.same_indices == 1.0 and verdict.largest_difference < 1e-5


def test_compute_alone_needs_a_gpu(bundle_file, export_directory):
    manifest = load_manifest(export_directory)
    images = golden_of(export_directory, manifest).images
    wanted = pytest.raises(EngineError, match="TorchSession measures calls with their transfers only")
    with TorchSession(bundle_file, "full", manifest) as session, wanted:
        session.compute(images, None, 0.01)
