import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfilter.artifacts.budget import keep_from_text, keeps_from_text, tokens_from_keep
from tokfilter.errors import BudgetError


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_ratio_that_names_a_count_gets_it(count, patches):
    count = min(count, patches)
    assert tokens_from_keep(count / patches, patches) == count
    assert tokens_from_keep(count, patches) == count


@given(st.floats(1e-9, 1.0), st.integers(1, 5000))
def test_a_ratio_is_floored_but_keeps_one(ratio, patches):
    k = tokens_from_keep(ratio, patches)
    assert 1 <= k <= patches
    assert k <= max(1, ratio * patches + 1e-6)


def test_an_int_is_a_count_and_a_float_a_ratio():
    assert tokens_from_keep(1, 196) == 1
    assert tokens_from_keep(1.0, 196) == 196
    assert tokens_from_keep(np.int64(1), 196) == 1
    assert tokens_from_keep(np.float32(1), 196) == 196
    assert type(tokens_from_keep(np.int64(98), 196)) is int


@pytest.mark.parametrize(
    "keep",
    [0, -1, 17, 0.0, -0.1, 1.5, math.nan, math.inf, True, False, np.bool_(True), np.float32("nan"), "0.5", "50%", None],
)
def test_what_is_no_budget_is_refused(keep):
    with pytest.raises(BudgetError, match="keep must be"):
        tokens_from_keep(keep, 16)


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("0.5", 0.5),
        ("1.0", 1.0),
        ("1.", 1.0),
        ("1e-1", 0.1),
        ("50%", 0.5),
        ("50 %", 0.5),
        ("100%", 1.0),
        ("1%", 0.01),
        ("33.3%", 0.333),
        ("98", 98),
        ("2", 2),
        ("98t", 98),
        ("98 tokens", 98),
        ("1t", 1),
        ("1 token", 1),
        ("1T", 1),
        (" 98 ", 98),
    ],
)
def test_typed_budgets(text, keep):
    got = keep_from_text(text)
    assert got == pytest.approx(keep)
    assert type(got) is type(keep)


@pytest.mark.parametrize("text", ["1", " 1 ", "01"])
def test_a_bare_one_is_refused_with_both_spellings(text):
    with pytest.raises(BudgetError, match=r"ambiguous: write 1\.0 or 100% .* every token, or 1t .* single token"):
        keep_from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "0t", "0%", "0.0", "-1", "-1t", "-50%", "1.5", "1.5t", "150%", "101%", "98.0", "2.5"),
        *("nan", "nan%", "inf", "True", "half", "", "%", "t", "9" * 400, "٣"),
    ],
)
def test_typed_nonsense_is_refused(text):
    with pytest.raises(BudgetError, match="keep must be a ratio"):
        keep_from_text(text)


def test_lists_of_budgets():
    assert keeps_from_text(["1.0,0.7", "50%", "98, 1t"]) == [1.0, 0.7, 0.5, 98, 1]
    with pytest.raises(BudgetError, match="ambiguous"):
        keeps_from_text(["1,0.7"])
