"""Compares one engine with the golden tensors, in TensorRT's Python, in a process that a tool can observe."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof.worker import answer
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.tensorrt_session import TensorRTSession
from tokfilter.runtime.verification import verify

__all__ = ["verified"]


def verified(request: dict[str, Any]) -> dict[str, Any]:
    """The verdict of each budget. Raises VerificationError."""
    directory = Path(request["directory"])
    manifest = load_manifest(directory)
    entry = next(entry for entry in manifest.files if entry.runtime == "tensorrt" and entry.role != "plugin")
    model_file = ModelFile(directory, manifest, entry)
    golden = golden_of(directory, manifest)
    with TensorRTSession(model_file) as session:
        verdicts = [asdict(verify(session, model_file, golden, request["batch"], k)) for k in request["budgets"]]
    return {"verdicts": verdicts}


if __name__ == "__main__":
    answer(verified)
