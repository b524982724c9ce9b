import json
from dataclasses import replace

import pytest

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import (
    NAME,
    Manifest,
    ModelCard,
    entry_from_file,
    load_manifest,
    save_manifest,
)
from tokfilter.errors import DataError, EngineError


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "golden.npz").write_bytes(b"tensors")
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    card = ModelCard("vit", (3, 32, 32), 16, 1, 5, list("abcde"), 8, {"full": 9, "8": 5}, preprocessing)
    files = [
        entry_from_file(tmp_path, "model.onnx", "filtered", runtime="onnx", precision="fp32", batch_range=(1, 4, 8)),
        entry_from_file(tmp_path, "golden.npz", "golden"),
    ]
    manifest = Manifest(
        card, files, {"name": "model.pt", "sha256": "0" * 64}, 18, {"onnx": "1"}, {}, "2026-01-01T00:00:00Z"
    )
    (tmp_path / NAME).write_text(manifest.text())
    return tmp_path, manifest


def test_what_is_written_is_read(directory):
    path, manifest = directory
    assert load_manifest(path) == manifest
    (entry,) = manifest.entries("filtered", "onnx")
    assert manifest.entries("filtered", "tensorrt") == []
    check_file(path, entry)


def test_a_saved_manifest_takes_the_place_of_the_old(directory, monkeypatch):
    path, manifest = directory
    changed = replace(manifest, choice={"tokens": 5})
    save_manifest(path, changed)
    assert load_manifest(path) == changed
    monkeypatch.setattr(Manifest, "text", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_manifest(path, manifest)
    assert load_manifest(path) == changed
    assert sorted(file.name for file in path.iterdir()) == ["golden.npz", NAME, "model.onnx"]


def test_weights_beside_a_graph_are_held_to_their_sums(directory):
    path, manifest = directory
    (path / "model.onnx.data").write_bytes(b"weights")
    sums = {"model.onnx.data": sha256(path / "model.onnx.data")}
    entry = replace(manifest.files[0], external=sums)
    check_file(path, entry)
    for damage in (lambda file: file.write_bytes(b"Weights"), lambda file: file.unlink()):
        damage(path / "model.onnx.data")
        with pytest.raises(EngineError, match=r"model.onnx.data is (not the file|missing)"):
            check_file(path, entry)


def test_what_was_added_to_the_format_is_written_only_where_it_is_set(directory):
    """An older tokfilter reads the manifest of an export that needs none of it."""
    path, manifest = directory
    added = {"verified", "unverified", "kept_fp32"}
    assert not any(added & item.keys() for item in json.loads(manifest.text())["files"])
    kept = {"groups": {"residual adds": ["blocks.0/Add"]}, "minimal": False, "probes": 12}
    engine = replace(manifest.files[0], verified=False, unverified="no GPU", kept_fp32=kept)
    changed = replace(manifest, files=[engine, replace(manifest.files[1], verified=True)])
    save_manifest(path, changed)
    assert load_manifest(path) == changed
    assert [added & item.keys() for item in json.loads(changed.text())["files"]] == [added, {"verified"}]


@pytest.mark.parametrize("keep", [0, 17, -1, 0.5, 1.0, True, "50%", None])
def test_the_default_budget_is_a_count(directory, keep):
    path, _ = directory
    content = json.loads((path / NAME).read_text())
    content["model"]["keep"] = keep
    (path / NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model\.keep must be a count between 1 and 16"):
        load_manifest(path)


def test_a_changed_byte_is_refused(directory):
    path, manifest = directory
    (path / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(EngineError, match="its bytes have changed"):
        check_file(path, manifest.files[0])
    (path / "model.onnx").unlink()
    with pytest.raises(EngineError, match=r"model.onnx is missing, though manifest.json lists it"):
        check_file(path, manifest.files[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=2), "reads 1"),
        (lambda c: c.update(format="x"), "no manifest of tokfilter"),
        (lambda c: c.pop("format"), "no manifest of tokfilter"),
        (lambda c: c.pop("opset"), "damaged"),
        (lambda c: c.update(surprise=1), "damaged"),
        (lambda c: c.update(files={}), "files must be a list"),
        (lambda c: c["files"][0].update(path="../../etc/passwd"), "the name of a file inside the directory"),
        (lambda c: c["files"][0].update(path="/etc/passwd"), "the name of a file inside the directory"),
        (lambda c: c["files"][0].update(batch_range=[1]), "damaged"),
        (lambda c: c["model"].pop("patches"), "damaged"),
        (lambda c: c["files"][0].update(kept_fp32=["head"]), "damaged"),
        (
            lambda c: c["files"][0].update(kept_fp32={"groups": {"head": [1]}, "minimal": True, "probes": 1}),
            "kept_fp32",
        ),
        (lambda c: c["files"][0].update(kept_fp32={"groups": {}, "minimal": 1, "probes": 1}), "kept_fp32"),
        (lambda c: c["files"][0].update(kept_fp32={"groups": {}, "minimal": True, "probes": "9"}), "probes must be"),
        (lambda c: c["files"][0].update(kept_fp32={"groups": {}, "probes": 1}), "damaged"),
    ],
)
def test_other_manifests_are_refused(directory, change, words):
    path, _ = directory
    content = json.loads((path / NAME).read_text())
    change(content)
    (path / NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        load_manifest(path)


def test_no_manifest(tmp_path):
    with pytest.raises(DataError, match="written by `tokfilter export`"):
        load_manifest(tmp_path)
    (tmp_path / "model.pt").write_text("a bundle")
    with pytest.raises(DataError, match=r"model.pt is a file: expected an export directory"):
        load_manifest(tmp_path / "model.pt")
    (tmp_path / NAME).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        load_manifest(tmp_path)
