import re

import pytest

from tokfilter.benchmarks.records.readme import TABLES, page_with_tables, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_pages_show_what_was_measured(page):
    text = page.read_text(encoding="utf-8")
    assert page_with_tables(text) == text, "run `python -m tokfilter.benchmarks readme`"


def test_every_table_is_on_a_page():
    everything = "".join(page.read_text(encoding="utf-8") for page in pages())
    for name in TABLES:
        assert f"<!-- table: {name} -->" in everything


def test_an_unknown_table_is_refused():
    with pytest.raises(KeyError):
        page_with_tables("<!-- table: wishes --><!-- end of table -->")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_of_pages_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
