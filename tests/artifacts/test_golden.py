from dataclasses import replace

import numpy as np
import pytest

from tokfilter.artifacts.golden import GoldenArrays, golden_of
from tokfilter.errors import DataError, EngineError, VerificationError
from tokfilter.runtime.model_files import find_model_file
from tokfilter.runtime.session import Budgets, Result, TensorSpec
from tokfilter.runtime.verification import verify


class Replay:
    """A session with given outputs: the comparison is tested, not an engine."""

    inputs = (TensorSpec("images", ("batch", 3, 32, 32), np.dtype(np.float32)),)
    budgets = Budgets(1, 16, 8, 16)

    def __init__(self, golden, change=lambda logits, indices: (logits, indices)):
        self.golden, self.change = golden, change

    def run(self, images, keep=None):
        rows = [int(np.abs(self.golden.images - image).sum((1, 2, 3)).argmin()) for image in images]
        logits = self.golden.full if keep == 16 else self.golden.logits.get(keep, self.golden.full)
        return Result(*self.change(logits[rows].copy(), self.golden.expected_indices(keep)[rows].copy()))


@pytest.fixture(scope="module")
def chosen(export_directory):
    return find_model_file(export_directory)


@pytest.fixture(scope="module")
def golden(chosen):
    return golden_of(chosen.directory, chosen.manifest)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize(("k", "compared"), [(8, "logits and indices"), (16, "logits and indices"), (5, "indices")])
def test_equal_outputs_pass_at_every_batch(chosen, golden, batch, k, compared):
    verdict = verify(Replay(golden), chosen, golden, batch, k)
    assert (verdict.compared, verdict.batch, verdict.tokens) == (compared, batch, k)
    assert verdict.same_indices == 1.0
    assert verdict.largest_difference == (None if k == 5 else 0.0)
    assert verdict.path == "model.onnx" and len(verdict.sha256) == 64


def shifted(logits, indices):
    return logits + 0.1 * np.abs(logits).max(), indices


def poisoned(logits, indices):
    logits[-1, 0] = np.nan
    return logits, indices


def others_kept(logits, indices):
    return logits, (15 - indices)[:, ::-1]


def fewer_kept(logits, indices):
    return logits, indices[:, 1:]


def fewer_classes(logits, indices):
    return logits[:, 1:], indices


@pytest.mark.parametrize("change", [shifted, poisoned, others_kept, fewer_kept, fewer_classes])
def test_other_outputs_are_refused_before_any_time(chosen, golden, change):
    with pytest.raises(VerificationError):
        verify(Replay(golden, change), chosen, golden, 2, 8)


def test_nan_is_refused_even_where_no_golden_logits_are(chosen, golden):
    with pytest.raises(VerificationError, match="No time was taken"):
        verify(Replay(golden, poisoned), chosen, golden, 1, 5)


def test_the_error_has_the_figures(chosen, golden):
    with pytest.raises(VerificationError, match=r"model.onnx differs .* batch of 2 and 8 tokens: logits 0\.1"):
        verify(Replay(golden, shifted), chosen, golden, 2, 8)


def test_a_near_tie_may_fall_otherwise_in_low_precision(chosen, golden):
    """One of 3 images keeps another token, so its logits differ; the other two must still agree."""

    def one_other(logits, indices):
        spare = next(i for i in range(16) if i not in indices[0])
        indices[0] = np.sort([*indices[0, :-1], spare])
        logits[0] += 9
        return logits, indices

    half = replace(chosen, entry=replace(chosen.entry, precision="fp16"))
    verdict = verify(Replay(golden, one_other), half, golden, 3, 8)
    assert verdict.largest_difference == 0.0 and 0.9 < verdict.same_indices < 1.0


def test_fp32_accepts_near_ties_only(chosen, golden):
    """Image 0 keeps its ninth token in place of its eighth."""
    order = np.argsort(-golden.scores[0], kind="stable")
    scores = golden.scores.copy()

    def swapped(logits, indices):
        indices[0] = np.sort([*order[:7], order[8]])
        logits[0] += 9
        return logits, indices

    with pytest.raises(VerificationError, match="keeps other tokens whose scores are"):
        verify(Replay(golden, swapped), chosen, golden, 3, 8)
    scores[0, order[8]] = scores[0, order[7]]
    tied = replace(golden, scores=scores)
    if tied.expected_indices(8)[0].tolist() == np.sort([*order[:7], order[8]]).tolist():
        scores[0, order[8]] = np.nextafter(
            scores[0, order[7]], np.float32(-np.inf)
        )  # the eighth has the higher position
    verdict = verify(Replay(tied, swapped), chosen, tied, 3, 8)
    assert verdict.largest_difference == 0.0 and verdict.same_indices == pytest.approx(1 - 1 / 24)


def test_tiled_repeats_in_order(golden):
    tiled = golden.tiled(7, np.float16)
    assert tiled.shape == (7, 3, 32, 32) and tiled.dtype == np.float16
    np.testing.assert_array_equal(tiled[3], golden.images[0].astype(np.float16))


def test_expected_indices_keep_the_highest_scores():
    scores = np.array([[0.1, np.nan, 0.5, 0.5]], np.float32)
    golden = GoldenArrays(np.zeros((1, 3, 2, 2)), scores, np.zeros((1, 2)), {})
    assert golden.expected_indices(1).tolist() == [[2]]
    assert golden.expected_indices(3).tolist() == [[0, 2, 3]]


def test_damaged_golden_file(export_directory, tmp_path):
    import shutil

    from tokfilter.artifacts.files import sha256
    from tokfilter.artifacts.manifest import load_manifest

    shutil.copytree(export_directory, tmp_path / "out")
    file = tmp_path / "out" / "golden.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(EngineError, match="bytes have changed"):
        golden_of(tmp_path / "out", load_manifest(tmp_path / "out"))
    manifest = load_manifest(tmp_path / "out")
    files = [replace(e, sha256=sha256(file), bytes=200) if e.role == "golden" else e for e in manifest.files]
    cut = replace(find_model_file(tmp_path / "out"), manifest=replace(manifest, files=files))
    with pytest.raises(DataError, match="damaged"):
        golden_of(cut.directory, cut.manifest)
    with pytest.raises(DataError, match="no golden.npz"):
        golden_of(cut.directory, replace(manifest, files=files[:-1]))


def altered(arrays, name, value):
    arrays[name] = value(arrays[name])


ALTERED = [
    ("indices_8", np.zeros_like, "do not rise"),
    ("indices_8", lambda a: a[:, ::-1], "do not rise"),
    ("indices_8", lambda a: a + 16, "outside 0..15"),
    ("indices_8", lambda a: np.arange(8, dtype=np.int32) + 0 * a, "keeps other tokens"),
    ("indices_8", lambda a: a.astype(np.int64), "must be int32"),
    ("scores", lambda a: -a, "keeps other tokens"),
    ("scores", lambda a: a[:, :-1], r"scores must be float32 \[3, 16\]"),
    ("scores", lambda a: a * np.float32("nan"), "holds NaN or infinity"),
    ("full", lambda a: a.T, r"full must be float32 \[3, 5\]"),
    ("images", lambda a: a.reshape(-1), r"images must be float32 \[3, 3, 32, 32\]"),
    ("logits_8", lambda a: a.astype(np.float64), "must be float32"),
]


@pytest.mark.parametrize(("name", "value", "words"), ALTERED)
def test_golden_arrays_are_checked(export_directory, tmp_path, name, value, words):
    """Whoever alters golden.npz can write its sum into the manifest: the arrays must still fit each other."""
    from tokfilter.artifacts.manifest import entry_from_file, load_manifest

    with np.load(export_directory / "golden.npz") as file:
        arrays = dict(file)
    altered(arrays, name, value)
    np.savez(tmp_path / "golden.npz", **arrays)
    manifest = replace(load_manifest(export_directory), files=[entry_from_file(tmp_path, "golden.npz", "golden")])
    with pytest.raises(DataError, match=f"golden.npz is damaged.*{words}"):
        golden_of(tmp_path, manifest)


def test_a_batch_of_any_size_is_refused():
    golden = GoldenArrays(np.zeros((1, 3, 2, 2), np.float32), np.zeros((1, 4), np.float32), np.zeros((1, 2)), {})
    assert golden.tiled(3).shape == (3, 3, 2, 2)
    with pytest.raises(DataError, match="at most 1024 MiB, got 10000000000 images"):
        golden.tiled(10**10)
