import pytest

from tokfilter.commands import progress
from tokfilter.commands.progress import LINE_SECONDS, progress_bar


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_line_each_half_minute_where_standard_error_is_no_terminal(clock, capsys):
    with progress_bar() as report:
        for _ in range(600):  # ten minutes
            report("reading images", 0.5)
            clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 600 / LINE_SECONDS - 1
    assert all(line.endswith(" 50 %  reading images") for line in lines)


def test_a_short_command_prints_no_line(clock, capsys):
    with progress_bar() as report:
        report("reading images", 0.0)
        clock[0] += LINE_SECONDS - 1
        report("reading images", 1.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("fraction", "percent"), [(-1.0, "  0 %"), (0.999, " 99 %"), (1.2, "100 %")])
def test_fractions_and_control_characters(clock, capsys, fraction, percent):
    with progress_bar() as report:
        clock[0] += LINE_SECONDS
        report("class \x1b[31m", fraction)
    line = capsys.readouterr().err
    assert percent in line and "\\x1b[31m" in line and "\x1b" not in line
