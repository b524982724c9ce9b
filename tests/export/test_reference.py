"""Golden tensors of a bundle are no reference before they are computed again."""

from dataclasses import replace

import pytest

from tokfilter.errors import BundleError
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.reference import check_golden
from tokfilter.vit.bundle import model_from_bundle, save_bundle


def other_scores(golden):
    """Scores that rank the tokens as before, so that the kept ones still fit them."""
    return replace(golden, scores=golden.scores * 2)


ALTERED = [
    (other_scores, "golden scores are not what its weights give"),
    (lambda golden: replace(golden, full=golden.full.flip(1)), "golden full are not"),
    (lambda golden: replace(golden, logits=golden.logits | {8: -golden.logits[8]}), "golden logits 8 are not"),
    (lambda golden: replace(golden, images=golden.images.flip(0)), "golden scores are not"),
]


def test_golden_tensors_of_its_own_weights_pass(bundle):
    check_golden(bundle, model_from_bundle(bundle))


@pytest.mark.parametrize(("alter", "words"), ALTERED)
def test_altered_golden_tensors_are_refused(bundle, alter, words):
    with pytest.raises(BundleError, match=words):
        check_golden(replace(bundle, golden=alter(bundle.golden)), model_from_bundle(bundle))


def test_export_refuses_them_and_writes_nothing(bundle, tmp_path):
    save_bundle(replace(bundle, golden=other_scores(bundle.golden)), tmp_path / "model.pt")
    with pytest.raises(BundleError, match="golden scores are not what its weights give"):
        export_bundle(tmp_path / "model.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
