from pathlib import Path

import pytest

from tokfilter.benchmarks.readme import TABLES, readme_with_tables

ROOT = Path(__file__).parent.parent


def test_readme_shows_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_with_tables(text) == text, "run `python -m tokfilter.benchmarks.readme`"
    for name in TABLES:
        assert f"<!-- table: {name} -->" in text


def test_an_unknown_table_is_a_mistake():
    with pytest.raises(KeyError):
        readme_with_tables("<!-- table: wishes --><!-- end of table -->")


def test_readme_names_files_that_exist():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
