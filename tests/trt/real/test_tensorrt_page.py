"""The table of docs/tensorrt-versions.md."""

from tensorrt_libraries import LIBRARIES
from tensorrt_page import PAGE, page


def test_the_table_says_what_is_recorded():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "python tests/tools/real_tensorrt.py page"
    for library in LIBRARIES:
        assert f"| {library.version} (" in text
