"""Later choices of tokens against torch's: choice by choice, near ties, partners of merged tokens, unsound files."""

import numpy as np
import pytest

from tokfilter.artifacts.compare import TOLERANCES
from tokfilter.artifacts.later import LaterChoices, later_from_arrays, merged

FP32, FP16 = TOLERANCES["fp32"], TOLERANCES["fp16"]
ROWS = np.array([0, 1, 0])


def golden(merging=False):
    """Two images of 6 patches: 4 are kept, of these 3, of these 2."""
    scores = np.array([[0.9, 0.5, 0.7, 0.1, 0.3, 0.2, 0.4], [0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.800001]], np.float32)
    later = np.array([[0, 1, 2, 0, 2], [1, 2, 3, 0, 1]], np.int32)
    choices = np.array([[4, 6], [3, 4], [2, 3]], np.int32)
    if not merging:
        return LaterChoices(choices, later, scores)
    partners = np.tile(np.array([1, 1, 1, 3, 3, 3, 1, 1, 3, 3, 1, 1, 1], np.int32), (2, 1))
    return LaterChoices(choices, later, scores, partners, np.full((2, 13), 0.5, np.float32))


def outputs(expected):
    first = np.array([[0, 1, 3, 5]] * 2, np.int32)
    partners = None if expected.partners is None else expected.partners[ROWS].copy()
    return [first[ROWS], expected.later_indices[ROWS].copy(), partners]


def compare(expected, found, tolerance=FP32, rounding=0.0, same=(True, True, True)):
    return expected.compare(found, ROWS, np.array(same), tolerance, rounding)


@pytest.mark.parametrize("merging", [False, True])
def test_equal_outputs_pass_and_all_images_are_the_same(merging):
    expected = golden(merging)
    result = compare(expected, outputs(expected))
    assert result.errors == () and result.overlap == 1.0 and result.same.all()


def test_a_near_tie_at_the_last_choice_leaves_its_image_out():
    expected = golden()
    found = outputs(expected)
    found[1][1, 3:] = 0, 2  # scores 0.8 and 0.800001
    result = compare(expected, found)
    assert result.errors == () and result.same.tolist() == [True, False, True] and 0.8 < result.overlap < 1


def test_another_token_is_an_error_in_fp32_and_an_image_that_differed_before_is_not_compared():
    expected = golden()
    found = outputs(expected)
    found[1][0, :3] = 1, 2, 3  # score 0.1 in place of 0.9
    assert "choice 2 keeps other tokens whose scores are 0.8 apart" in compare(expected, found).errors[0]
    assert compare(expected, found, same=(False, True, True)).errors == ()
    assert compare(expected, found, FP16, rounding=0.02).errors
    assert compare(expected, found, same=(False, False, False)).overlap is None


def test_partners_count_for_merged_tokens_only_and_by_their_gap():
    expected = golden(merging=True)
    found = outputs(expected)
    found[2][0, 1] = 3  # row 1 is kept
    assert compare(expected, found).same.all()
    found[2][0, 2] = 5  # row 2 is merged
    assert "choice 1 merges into other tokens that are 0.5 less similar" in compare(expected, found).errors[0]
    near = golden(merging=True)
    near.partner_gaps[0, 2] = 1e-6
    result = compare(near, found)
    assert result.errors == () and result.same.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("output", "change", "words"),
    [
        (1, lambda rows: rows[:, :4], "later_indices are int32 [3, 4], expected int32 [3, 5]"),
        (1, lambda rows: rows.astype(np.int64), "later_indices are int64"),
        (1, lambda rows: None, "later_indices are none"),
        (2, lambda rows: None, "partners are none, expected int32 [3, 13]"),
    ],
)
def test_outputs_of_another_shape_are_named(output, change, words):
    expected = golden(merging=True)
    found = outputs(expected)
    found[output] = change(found[output])
    assert words in compare(expected, found).errors[0]


def test_which_rows_are_merged():
    assert merged(np.array([[0, 2], [1, 2]], np.int32), 3).tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("merging", [False, True])
def test_arrays_are_read_as_they_were_written(merging):
    expected = golden(merging)
    read = later_from_arrays(expected.arrays(4), 4, 2, 6)
    assert read.arrays(4).keys() == expected.arrays(4).keys()
    assert all(np.array_equal(read.arrays(4)[name], array) for name, array in expected.arrays(4).items())
    assert later_from_arrays({}, 4, 2, 6) is None


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("choices_4", lambda a: a.astype(np.int64), "must be int32"),
        ("choices_4", lambda a: a[:, :1], "must be int32"),
        ("choices_4", lambda a: a[:0], "must be int32"),
        ("choices_4", lambda a: a[1:], "does not fit 4 of 6"),
        ("choices_4", lambda a: a * np.array([[1, 1], [1, 1], [1, 0]], np.int32), "does not fit"),
        ("choices_4", lambda a: a + np.array([[0, 0], [2, 0], [0, 0]], np.int32), "keeps more tokens"),
        ("later_indices_4", lambda a: a[:, :-1], r"must be int32 \[2, 5\]"),
        ("later_indices_4", lambda a: a[:, ::-1], "no rising ones"),
        ("later_indices_4", lambda a: a + 9, "no rising ones"),
        ("later_scores_4", lambda a: a * np.nan, "NaN"),
        ("later_scores_4", lambda a: a.astype(np.float64), "must be float32"),
        ("partners_4", lambda a: a - 2, "none of 6"),
        ("partner_gaps_4", lambda a: a[:1], "must be float32"),
    ],
)
def test_unsound_arrays_are_refused(name, change, words):
    arrays = golden(merging=True).arrays(4)
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=words):
        later_from_arrays(arrays, 4, 2, 6)


def test_a_missing_array_is_refused():
    arrays = golden(merging=True).arrays(4)
    for name in ("later_indices_4", "later_scores_4", "partner_gaps_4"):
        with pytest.raises(KeyError):
            later_from_arrays({key: array for key, array in arrays.items() if key != name}, 4, 2, 6)
