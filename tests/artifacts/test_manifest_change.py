"""A change of a manifest keeps what other commands changed since it was read."""

from dataclasses import replace

import pytest

from tokfilter.artifacts import manifest_change
from tokfilter.artifacts.locks import held
from tokfilter.artifacts.manifest import Manifest, ModelCard, load_manifest, save_manifest
from tokfilter.artifacts.manifest_change import change_manifest
from tokfilter.errors import DataError

PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
CARD = ModelCard("vit", (3, 32, 32), 16, 1, 5, [], 8, {}, PREPROCESSING)
CHOICE = {"tokens": 4, "keep": 0.25, "batch": 1, "latency_ms": 1.0, "speedup": {"value": 2.0}, "reason": "as asked"}


@pytest.fixture
def known(tmp_path):
    save_manifest(tmp_path, Manifest(CARD, [], {"name": "model.pt"}, 18, {}, {}, "2026-11-27T12:00:00+00:00"))
    return load_manifest(tmp_path)


def test_two_changes_of_the_same_manifest_are_both_kept(tmp_path, known):
    change_manifest(tmp_path, known, lambda manifest: replace(manifest, choice=CHOICE))
    change_manifest(tmp_path, known, lambda manifest: replace(manifest, versions={"engine": "1"}))
    found = load_manifest(tmp_path)
    assert (found.choice, found.versions) == (CHOICE, {"engine": "1"})


@pytest.mark.parametrize("change", [{"created": "2026-11-27T13:00:00+00:00"}, {"source": {"name": "other.pt"}}])
def test_a_new_export_gets_nothing_that_was_made_for_the_old_one(tmp_path, known, change):
    save_manifest(tmp_path, replace(known, **change))
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="was exported again while this command ran: run it again"):
        change_manifest(tmp_path, known, lambda manifest: replace(manifest, choice=CHOICE))
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_writer_that_does_not_finish_is_named(tmp_path, known, monkeypatch):
    monkeypatch.setattr(manifest_change, "_WAIT_S", 0.05)
    with held(tmp_path), pytest.raises(DataError, match="another process writes in .*: run this command again when"):
        change_manifest(tmp_path, known, lambda manifest: manifest)
