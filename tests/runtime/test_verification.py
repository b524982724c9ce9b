"""An engine against the golden tensors, before it is called done: `check_engine`."""

from dataclasses import replace
from typing import ClassVar

import pytest

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import MissingDependencyError, VerificationError
from tokfilter.runtime import verification
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.trt.gpus import Gpu


class Recorded(OnnxRuntimeSession):
    """A graph in ONNX Runtime in place of an engine. ``offset`` is added to the first logit."""

    runs: ClassVar[list[tuple[int, int]]] = []
    offset = 0.0

    def run(self, images, keep=None):
        result = super().run(images, keep)
        self.runs.append((len(images), keep))
        result.logits[:, 0] += self.offset
        return result


@pytest.fixture
def sessions(monkeypatch):
    monkeypatch.setattr(Recorded, "runs", [])
    monkeypatch.setattr(verification, "session_from_model_file", lambda chosen, options: Recorded(chosen, threads=1))
    monkeypatch.setattr(verification, "gpus", list)
    return Recorded


def entry_of(directory, path, **changes):
    manifest = load_manifest(directory)
    entry = next(entry for entry in manifest.files if entry.path == path)
    return manifest, replace(entry, runtime="tensorrt", **changes)


@pytest.mark.parametrize(
    ("path", "ranges", "batches", "budgets"),
    [
        ("model.onnx", {"batch_range": (1, 3, 5), "budget_range": (1, 8, 16)}, [1, 2, 3, 5], [4, 8, 11]),
        ("model.onnx", {"batch_range": (4, 4, 4), "budget_range": (8, 8, 8)}, [4], [8]),
        ("model.onnx", {}, [1, 2], [4, 8, 11]),
        ("model.k8.onnx", {"batch_range": (1, 2, 2)}, [1, 2], [8]),
        ("full.onnx", {"batch_range": (1, 2, 3)}, [1, 2, 3], [16]),
    ],
)
def test_every_golden_budget_and_the_ends_of_the_batch_range_are_run(
    export_directory, sessions, path, ranges, batches, budgets
):
    assert verification.check_engine(export_directory, *entry_of(export_directory, path, **ranges)) is None
    assert list(dict.fromkeys(sessions.runs)) == [(batch, k) for batch in batches for k in budgets]


def test_an_engine_need_not_stand_in_the_manifest_yet(export_directory, sessions):
    manifest, entry = entry_of(export_directory, "full.onnx")
    alone = replace(manifest, files=manifest.entries("golden"))
    verification.check_engine(export_directory, alone, entry)
    assert sessions.runs


def test_an_engine_for_a_budget_without_golden_logits_is_not_called_compared(export_directory, sessions):
    manifest, entry = entry_of(export_directory, "model.onnx", budget_range=(5, 5, 5))
    assert verification.check_engine(export_directory, manifest, entry) == (
        "only its kept tokens were: at 5 tokens torch computed no logits, or every image kept other tokens in near ties"
    )
    assert set(sessions.runs) == {(1, 5), (2, 5)}


def test_what_differs_is_told_with_figures_and_without_a_remedy_of_its_own(export_directory, sessions, monkeypatch):
    monkeypatch.setattr(sessions, "offset", 0.5)
    with pytest.raises(VerificationError) as caught:
        verification.check_engine(export_directory, *entry_of(export_directory, "full.onnx"))
    message = str(caught.value)
    for words in ("full.onnx differs", "batch of 1 and 16 tokens", "logits 2.", "cosine 0.", "first class equal on "):
        assert words in message
    assert "No time was taken" not in message


@pytest.mark.parametrize(
    ("targets", "here", "refused"),
    [
        (["SM89"], ["9.0"], True),
        (["SM89", "sm90"], ["9.0"], False),
        (["SM89"], ["9.0", "8.9"], False),
        (["SM89"], [], False),
        (["SM89"], [None], False),
        ("all", ["9.0"], False),
    ],
)
def test_a_plan_for_other_gpus_cannot_be_compared_here(export_directory, sessions, monkeypatch, targets, here, refused):
    gpus = [Gpu("a GPU", None, capability, None, None, None) for capability in here]
    monkeypatch.setattr(verification, "gpus", lambda: gpus)
    chosen = entry_of(export_directory, "full.onnx", target={"compute_capabilities": targets})
    if refused:
        with pytest.raises(MissingDependencyError, match=r"built for SM89, and this machine's GPU is SM90"):
            verification.check_engine(export_directory, *chosen)
    else:
        verification.check_engine(export_directory, *chosen)
    assert bool(sessions.runs) is not refused
