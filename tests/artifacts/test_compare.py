import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.artifacts.compare import SCORE_GAP, TOLERANCES, compare_indices, compare_logits

FP32 = TOLERANCES["fp32"]


def scores(*rows):
    return np.array(rows, dtype=np.float32)


def indices(*rows):
    return np.array(rows, dtype=np.int32)


def test_equal_choices_pass():
    comparison = compare_indices(indices([1, 3]), indices([1, 3]), scores([0, 4, 1, 3]))
    assert (comparison.near_ties, comparison.gap, comparison.worst, comparison.errors) == (0, 0.0, None, ())
    assert comparison.overlap.tolist() == [1.0]


def test_a_near_tie_is_forgiven_and_named():
    close = 3 - SCORE_GAP
    comparison = compare_indices(
        indices([0, 1], [1, 2]), indices([0, 1], [1, 3]), scores([4, 3, 0, 0], [0, 4, close, 3])
    )
    assert comparison.errors == ()
    assert (comparison.near_ties, comparison.worst) == (1, (1, 3))
    assert comparison.overlap.tolist() == [1.0, 0.5]


def test_a_wrong_choice_is_an_error_with_the_gap():
    comparison = compare_indices(indices([0, 1]), indices([1, 3]), scores([0, 4, 1, 3]))
    assert "scores are 3 apart" in comparison.errors[0]
    assert comparison.worst == (0, 3)


@given(st.lists(st.sampled_from([0.0, 1.0, 1.0 + SCORE_GAP / 2, 5.0]), min_size=4, max_size=12), st.data())
def test_any_set_is_judged_by_its_scores_alone(values, data):
    """Whatever k tokens are kept: they pass exactly if no token left out beats one kept by more than the gap."""
    row = scores(values)
    k = data.draw(st.integers(1, len(values)))
    kept = sorted(data.draw(st.permutations(range(len(values))))[:k])
    best = np.sort(np.argsort(-row[0], kind="stable")[:k])
    left = np.setdiff1d(best, kept)
    extra = np.setdiff1d(kept, best)
    fits = not len(extra) or row[0, left].max() - row[0, extra].min() <= SCORE_GAP * max(1, np.abs(row).max())
    assert (compare_indices(indices(kept), indices(best), row).errors == ()) == fits


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (indices([1, 3]).astype(np.int64), "int64"),
        (indices([1, 2, 3]), r"\[1, 3\]"),
        (indices([1, 4]), "outside 0..3"),
        (indices([-1, 3]), "outside 0..3"),
        (indices([3, 1]), "do not rise"),
        (indices([1, 1]), "kept twice"),
    ],
)
def test_malformed_indices_are_errors(found, words):
    comparison = compare_indices(found, indices([1, 3]), scores([0, 4, 1, 3]))
    assert len(comparison.errors) == 1
    assert re.search(words, comparison.errors[0])


def logits(*rows):
    return np.array(rows, dtype=np.float32)


def test_equal_logits_pass():
    same = logits([1, 2, 3], [0, 0, 0])
    comparison = compare_logits(same, same.copy(), FP32)
    assert (comparison.max_abs, comparison.relative, comparison.cosine, comparison.top1) == (0, 0, 1, 1)
    assert comparison.errors == ()


def test_the_error_is_relative_to_the_largest_logit_of_the_image():
    expected = logits([1000, 0, 0], [1, 0, 0])
    comparison = compare_logits(expected + logits([0.05, 0, 0], [0, 0, 0]), expected, FP32)
    assert comparison.relative == pytest.approx(5e-5, rel=1e-2)
    assert comparison.errors == ()
    comparison = compare_logits(expected + logits([0, 0, 0], [0, 0.05, 0]), expected, FP32)
    assert comparison.worst == 1
    assert any("relative error 0.05" in error for error in comparison.errors)


def test_another_first_class_is_an_error_unless_the_first_two_were_as_good_as_equal():
    expected = logits([5, 1, 1], [5, 5 - 1e-4, 1])
    found = logits([5, 1, 1], [5 - 1e-4, 5, 1])
    comparison = compare_logits(found, expected, FP32)
    assert comparison.top1 == 0.5
    assert comparison.errors == ()
    comparison = compare_logits(logits([1, 5, 1], [5, 1, 1]), expected, TOLERANCES["bf16"])
    assert any("another class comes first on 1 of 2" in error for error in comparison.errors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_passes(bad):
    comparison = compare_logits(logits([bad, 0, 0]), logits([1, 0, 0]), TOLERANCES["bf16"])
    assert comparison.relative == np.inf
    assert comparison.errors


def test_other_shapes_and_types_are_errors():
    comparison = compare_logits(logits([1, 2]), logits([1, 2, 3]), FP32)
    assert "expected float32 [1, 3]" in comparison.errors[0]
    comparison = compare_logits(np.zeros((1, 3), np.float16), logits([1, 2, 3]), FP32)
    assert "float16" in comparison.errors[0]


def test_a_lower_precision_is_held_to_less():
    assert FP32.relative < TOLERANCES["fp16"].relative < TOLERANCES["bf16"].relative
    assert FP32.cosine > TOLERANCES["fp16"].cosine > TOLERANCES["bf16"].cosine


def test_other_tokens_are_accepted_up_to_the_fraction_of_the_precision():
    """20 tokens kept, one of them another one whose score is far off: 0.95 in common."""
    row = scores(np.arange(40)[::-1])
    found = indices([*range(19), 30])
    assert not compare_indices(found, indices(range(20)), row, TOLERANCES["fp16"].common).errors
    assert compare_indices(found, indices(range(20)), row, TOLERANCES["fp32"].common).errors
    assert compare_indices(found, indices(range(20)), row).errors
    assert FP32.common == 1.0 > TOLERANCES["fp16"].common > TOLERANCES["bf16"].common


def test_near_ties_count_as_common():
    tied = compare_indices(indices([0, 2]), indices([0, 1]), scores([5, 1, 1, 0]), FP32.common)
    assert (tied.errors, tied.overlap.tolist(), tied.near_ties) == ((), [0.5], 1)
