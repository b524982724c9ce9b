"""Progress on standard error, and the command line, shared by all verbs."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event, Thread
from typing import Final

import click

from tokfilter.artifacts.text import printable

__all__ = ["LINE_SECONDS", "command_line", "progress_bar", "step_status"]

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
        with _lines() as lines:
            yield lines.fraction
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("start", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


@contextmanager
def step_status(first: str) -> Iterator[Callable[[str], None]]:
    """The step that runs, on standard error: with a spinner on a terminal, else a line of text each half minute.

    Yields ``step(name)``; ``first`` is the name of the first step.
    """
    from rich.markup import escape

    from tokfilter.commands.terminal import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        with _lines() as lines:
            lines.step(first)
            yield lines.step
        return
    with console.status(escape(first)) as status:
        yield lambda name: status.update(escape(name))


class _Lines:
    """The latest step, printed each LINE_SECONDS by a thread: a long step reports nothing while it runs."""

    def __init__(self) -> None:
        self._text = "working"
        self._ended = Event()

    def step(self, name: str) -> None:
        self._text = name

    def fraction(self, what: str, fraction: float) -> None:
        self._text = f"{math.floor(100 * min(1.0, max(0.0, fraction))):3d} %  {what}"

    def print_until_ended(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            click.echo(f"{datetime.now():%H:%M:%S}  {printable(self._text)}", err=True)

    def end(self) -> None:
        self._ended.set()


@contextmanager
def _lines() -> Iterator[_Lines]:
    lines = _Lines()
    thread = Thread(target=lines.print_until_ended, daemon=True, name="progress")
    thread.start()
    try:
        yield lines
    finally:
        lines.end()
        thread.join()


def command_line() -> str:
    """The command as typed, for the record of a measurement."""
    return shlex.join(["tokfilter", *sys.argv[1:]])
