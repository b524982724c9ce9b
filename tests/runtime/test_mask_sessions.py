import json
import shutil

import numpy as np
import pytest

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError, EngineError, VerificationError
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.verification import verdicts


def images(count=2):
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), dtype=np.float32)


@pytest.fixture
def expected(mask_bundle_file):
    def run(keep):
        with open_session(mask_bundle_file) as session:
            return session.run(images(), keep)

    return run


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("keep", [1, 5, 8, 16])
def test_engines_give_the_masks_of_pytorch(mask_export_directory, expected, runtime, keep):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="pip install openvino")
    with open_session(mask_export_directory, options=SessionOptions(runtime, model_cache=False)) as session:
        assert session.outputs[0].name == "masks"
        assert session.outputs[0].shape[1:] == (3, 16, 16)
        found = session.run(images(), keep)
    wanted = expected(keep)
    assert found.masks.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(found.masks, wanted.masks, atol=1e-5)


def test_logits_of_a_classifier_are_no_masks(export_directory):
    with open_session(export_directory) as session, pytest.raises(DataError, match=r"logits \[2, 5\] and no masks"):
        _ = session.run(images()).masks


def test_verify_compares_masks(mask_export_directory, mask_bundle_file):
    found = [*verdicts(mask_export_directory), *verdicts(mask_bundle_file)]
    assert {verdict.path for verdict in found} >= {"model.onnx", "model.k8.onnx", "full.onnx", "model.pt (full)"}
    assert all(verdict.same_top1 == 1.0 and verdict.largest_difference < 1e-5 for verdict in found)


def test_golden_masks_that_differ_are_found(mask_export_directory, tmp_path):
    folder = shutil.copytree(mask_export_directory, tmp_path / "out")
    arrays = dict(np.load(folder / "golden.npz"))
    arrays["full"][:, 0, 3, 5] += 9
    np.savez(folder / "golden.npz", **arrays)
    _update(folder, "golden.npz")
    with pytest.raises(VerificationError, match="differs from the golden tensors.*another mask comes first on [1-9]"):
        list(verdicts(folder))


def test_golden_masks_of_another_size_are_refused(mask_export_directory, tmp_path):
    folder = shutil.copytree(mask_export_directory, tmp_path / "out")
    arrays = dict(np.load(folder / "golden.npz"))
    np.savez(folder / "golden.npz", **{**arrays, "full": arrays["full"][:, :, 1:]})
    _update(folder, "golden.npz")
    with pytest.raises(DataError, match=r"full must be float32 \[2, 3, 16, 16\], got float32 \[2, 3, 15, 16\]"):
        list(verdicts(folder))


def test_a_graph_of_a_classifier_is_refused_in_a_manifest_of_masks(mask_export_directory, export_directory, tmp_path):
    folder = shutil.copytree(mask_export_directory, tmp_path / "out")
    shutil.copy(export_directory / "model.onnx", folder / "model.onnx")
    _update(folder, "model.onnx")
    with (
        pytest.raises(EngineError, match="and masks as its first output; it has .*'logits'"),
        open_session(folder) as session,
    ):
        session.run(images())


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"name": "boxes", "shape": [3, 16, 16]}, "output.name must be one of masks, embedding.*got 'boxes'"),
        ({"name": "masks", "shape": [4, 16, 16]}, r"shape must be \[3 masks, height, width\].* got \[4, 16, 16\]"),
        ({"name": "masks", "shape": [3, 16, 64]}, "at most as large as the image"),
        ({"name": "masks", "shape": [3, 16]}, r"masks must be \[masks, height, width\]"),
        ({"name": "masks"}, "lacks shape"),
        ("masks", "must be an object"),
    ],
)
def test_an_unsound_output_in_a_manifest_is_refused(mask_export_directory, tmp_path, output, words):
    content = json.loads((mask_export_directory / "manifest.json").read_text())
    content["model"]["output"] = output
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        load_manifest(tmp_path)


def _update(folder, name):
    import hashlib

    data = (folder / name).read_bytes()
    content = json.loads((folder / "manifest.json").read_text())
    (entry,) = (entry for entry in content["files"] if entry["path"] == name)
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(content))
