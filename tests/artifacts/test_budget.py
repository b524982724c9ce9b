import math

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


@pytest.mark.parametrize("keep", [0, -1, 17, 0.0, -0.1, 1.5, math.nan, math.inf, True, "0.5", None])
def test_what_is_no_budget_is_refused(keep):
    with pytest.raises(BudgetError, match="keep wants"):
        tokens_from_keep(keep, 16)


@pytest.mark.parametrize(
    ("text", "keep"), [("0.5", 0.5), ("1", 1.0), ("1.0", 1.0), ("98", 98), ("2", 2), ("98.0", 98), ("1e-1", 0.1)]
)
def test_typed_budgets(text, keep):
    got = keep_from_text(text)
    assert got == keep
    assert type(got) is type(keep)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "half", "", "2.5"])
def test_typed_nonsense_is_refused(text):
    with pytest.raises(BudgetError, match="keep wants"):
        keep_from_text(text)


def test_lists_of_budgets():
    assert keeps_from_text(["1,0.7", "0.5", "98"]) == [1.0, 0.7, 0.5, 98]
