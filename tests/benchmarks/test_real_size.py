"""Measurement of a larger model in the demo: which model, which budgets, and that nothing of it stays."""

from pathlib import Path

import pytest

from tokfilter.benchmarks import real_size
from tokfilter.errors import VerificationError


@pytest.fixture
def calls(monkeypatch):
    """Calls of the three stages, which are tested with their own modules; each writes what the next one reads."""
    found = {}

    def random_bundle(architecture: str, path: Path) -> None:
        found["architecture"] = architecture
        path.write_bytes(b"model")

    def export_bundle(bundle: Path, directory: Path, progress) -> None:
        assert bundle.read_bytes() == b"model"
        directory.mkdir()
        progress("tracing the model")

    def compare(directory, batches, keeps, options, config, progress, command):
        assert directory.is_dir()
        found.update(batches=batches, keeps=keeps, threads=options.threads, command=command)
        return {"schema": "tokfilter/bench"}

    for stage in (random_bundle, export_bundle, compare):
        monkeypatch.setattr(real_size, stage.__name__, stage)
    return found


def test_all_and_half_of_the_tokens_of_deit_small_are_measured(calls, tmp_path):
    said = []
    document = real_size.bench_at_real_size(tmp_path, 3, lambda what, _: said.append(what), "tokfilter demo")
    assert document == {"schema": "tokfilter/bench"}
    assert calls == {
        "architecture": "deit_small_patch16_224",
        "batches": (1, 8),
        "keeps": (1.0, 0.5),
        "threads": 3,
        "command": "tokfilter demo",
    }
    assert said == ["deit_small_patch16_224: tracing the model"]
    assert not list(tmp_path.iterdir()), "model and graphs are deleted"


def test_nothing_stays_after_a_failure(calls, monkeypatch, tmp_path):
    def failing(*_, **__):
        raise VerificationError("outputs differ")

    monkeypatch.setattr(real_size, "compare", failing)
    with pytest.raises(VerificationError, match="outputs differ"):
        real_size.bench_at_real_size(tmp_path, 1, lambda *_: None, "")
    assert not list(tmp_path.iterdir())
