"""Progress bar and command line, shared by all verbs."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Final

import click

from tokfilter.artifacts.text import printable

__all__ = ["LINE_SECONDS", "command_line", "progress_bar"]

LINE_SECONDS: Final = 30.0
"""Time between two lines of progress, where standard error is not a terminal."""


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error where that is a terminal, else a line of text each half minute.

    Yields ``progress(what, fraction)``, fraction in 0..1.
    """
    from rich.progress import Progress

    from tokfilter.commands.terminal import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("start", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


class _Lines:
    """Progress as lines on standard error, at most one in LINE_SECONDS; none from a command that takes less."""

    def __init__(self) -> None:
        self._last = monotonic()

    def __call__(self, what: str, fraction: float) -> None:
        if monotonic() - self._last < LINE_SECONDS:
            return
        self._last = monotonic()
        percent = math.floor(100 * min(1.0, max(0.0, fraction)))
        click.echo(f"{datetime.now():%H:%M:%S}  {percent:3d} %  {printable(what)}", err=True)


def command_line() -> str:
    """The command as typed, for the record of a measurement."""
    return shlex.join(["tokfilter", *sys.argv[1:]])
