"""Progress bar and command line, shared by all verbs."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["command_line", "progress_bar"]


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error where that is a terminal. Yields ``progress(what, fraction)``, fraction in 0..1."""
    from rich.progress import Progress

    from tokfilter.commands.terminal import Terminal

    console = Terminal(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("start", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


def command_line() -> str:
    """The command as typed, for the record of a measurement."""
    return shlex.join(["tokfilter", *sys.argv[1:]])
