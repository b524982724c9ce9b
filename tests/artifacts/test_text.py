import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table

from tokfilter.artifacts.text import printable
from tokfilter.commands.terminal import Terminal

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b0m\u202egnp.exe\x00\r\ud800"


def test_what_is_shown():
    assert printable("café ✓\n\tline") == "café ✓\n\tline"
    assert printable(EVIL) == r"\x1b]0;owned\x07\x1b[31mred\x9b0m\u202egnp.exe\x00\r\ud800"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_control_character_is_left(text):
    shown = printable(text)
    assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown)
    assert not any(char in "\u202a\u202b\u202d\u202e\u2066\u2067" for char in shown)
    shown.encode()


@pytest.mark.parametrize("markup", [True, False])
def test_the_terminal_prints_none(markup):
    output = io.StringIO()
    console = Terminal(file=output, width=200, force_terminal=True, color_system=None)
    text = escape(EVIL) if markup else EVIL
    table = Table("[x]", text, title=text, caption=text)
    table.add_row(text, "[bold]b[/]")
    console.print(table)
    console.print(text, markup=markup)
    console.print(f"name {text}", soft_wrap=True, markup=markup, style="dim")
    written = output.getvalue()
    assert "\x1b]0" not in written and "\x07" not in written and "\x9b" not in written and "\u202e" not in written
    assert r"\x1b]0;owned\x07" in written and "[31mred" in written
