import re

import pytest

from tokfilter.benchmarks.__main__ import PROGRAMS
from tokfilter.benchmarks.records.markdown import current_command
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


@pytest.mark.parametrize("page", [p for p in pages() if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_commands_of_pages_name_programs_that_exist(page):
    found = re.findall(r"python -m tokfilter\.benchmarks([^\s`]*) ?([^\s`]*)", page.read_text(encoding="utf-8"))
    assert all(module == "" and name in {*PROGRAMS, "NAME", "--help"} for module, name in found), found


@pytest.mark.parametrize(
    ("recorded", "today"),
    [
        (
            "python -m tokfilter.benchmarks.figures --part speed",
            "python -m tokfilter.benchmarks runtime-figures --part speed",
        ),
        ("tokfilter bench out --keep 1,0.5 -o a1.json", "tokfilter bench out --keep 1.0,0.5 -o a1.json"),
        ("tokfilter bench out --keep 0.5,1", "tokfilter bench out --keep 0.5,1.0"),
        ("tokfilter bench out --keep 1.0,98 --batch 1", "tokfilter bench out --keep 1.0,98 --batch 1"),
        ("python -m examples.service.load DIR", "python -m examples.service.load DIR"),
    ],
)
def test_recorded_commands_are_shown_as_they_are_typed_today(recorded, today):
    assert current_command(recorded) == today
