"""Progress where standard error is no terminal: a line each half minute, here each hundredth of a second."""

import threading
import time

import pytest

from tokfilter.commands import progress
from tokfilter.commands.progress import progress_bar, step_status


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)


def wait_for(lines, capsys):
    """The lines of the steps that are printed until there are so many; "working" stands there before the first."""
    text, found = "", []
    for _ in range(3000):
        text += capsys.readouterr().err
        found = [line for line in text.splitlines() if not line.endswith("  working")]
        if len(found) >= lines:
            break
        time.sleep(0.01)
    return found


def test_lines_come_while_one_step_takes_long(quick, capsys):
    with progress_bar() as report:
        report("reading images", 0.5)
        lines = wait_for(3, capsys)
    assert len(lines) >= 3
    assert all(line.endswith("  50 %  reading images") for line in lines)


def test_the_name_of_a_step_is_printed(quick, capsys):
    with step_status("reading the bundle") as step:
        first = wait_for(1, capsys)
        step("building an engine")
        lines = wait_for(4, capsys)
    assert first[0].endswith("  reading the bundle")
    assert lines[-1].endswith("  building an engine")


@pytest.mark.parametrize("shown", [progress_bar, lambda: step_status("start")])
def test_a_short_command_prints_no_line_and_leaves_no_thread(capsys, shown):
    with shown() as report:
        report(*("reading images", 1.0)[: 2 if shown is progress_bar else 1])
    assert capsys.readouterr().err == ""
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_an_error_ends_the_lines(quick, capsys):
    with pytest.raises(ZeroDivisionError), step_status("start"):
        raise ZeroDivisionError
    assert "progress" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("fraction", "percent"), [(-1.0, "  0 %"), (0.999, " 99 %"), (1.2, "100 %")])
def test_fractions_and_control_characters(quick, capsys, fraction, percent):
    with progress_bar() as report:
        report("class \x1b[31m", fraction)
        line = wait_for(1, capsys)[0]
    assert percent in line and "\\x1b[31m" in line and "\x1b" not in line
