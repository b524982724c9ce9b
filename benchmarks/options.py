"""Options and output of all measurement programs."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from tokfilter.runtime.measure.record import write_json

__all__ = [
    "PROGRAM",
    "command_line",
    "data_option",
    "goal_lines",
    "json_option",
    "numbers_from_text",
    "output_option",
    "publish",
    "settings_option",
    "threads_option",
]

PROGRAM: Final = "python -m tokfilter.benchmarks"

_UNRECORDED: Final = ("output", "as_json")

Function = TypeVar("Function", bound=Callable[..., Any])


def numbers_from_text(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Callback of an option: integers with commas between; an empty text is an empty list."""
    try:
        return None if value is None else [int(number) for number in value.split(",") if number.strip()]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of integers such as 0,1,2") from None


def data_option(known: Iterable[str], default: str, note: str = "") -> Callable[[Function], Function]:
    """``--data``: some of the data sets ``known``, with commas between."""
    names = tuple(known)

    def read(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
        found = value.split(",")
        if unknown := [name for name in found if name not in names]:
            raise click.BadParameter(f"no data set {unknown[0]!r}; there are {', '.join(names)}")
        return found

    help = f"Of {', '.join(names)}{note}."
    return click.option("--data", callback=read, default=default, show_default=True, help=help)


def output_option(default: str | Path) -> Callable[[Function], Function]:
    """``-o``, ``--output``: the JSON document.

    default: a file name, or a file in benchmarks/results, which becomes its name where there is no checkout
    """
    published = isinstance(default, Path) and default.parent.is_dir()
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default if published else Path(default).name,
        show_default=not published,
        help=f"JSON document to write.{f' Default: benchmarks/results/{Path(default).name}' if published else ''}",
    )


def threads_option(default: int | None, help: str) -> Callable[[Function], Function]:
    """``--threads``."""
    return click.option(
        "--threads", type=click.IntRange(min=1), default=default, show_default=default is not None, help=help
    )


settings_option: Final = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the recipe that differs, such as finetune.epochs=6; may be given several times.",
)

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print the JSON document, not a table.")


def command_line() -> str:
    """The running command without output options; a path argument is recorded as its name in the usage line.

    Published documents must not have folders of this machine.
    """
    context = click.get_current_context()
    words = [str(context.info_name)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params[str(parameter.name)]
        if isinstance(parameter, click.Argument):
            words += [] if value is None else [parameter.make_metavar(context).strip("[]")]
        elif context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in _UNRECORDED:
            words += _words(max(parameter.opts, key=len), parameter, value)
    return f"{PROGRAM} {shlex.join(words)}"


def _words(option: str, parameter: click.Parameter, value: Any) -> Iterable[str]:
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [option]
    if isinstance(parameter.type, click.Path):
        return [option, option.lstrip("-").upper()]
    if isinstance(value, list):
        return [option, ",".join(map(str, value))]
    return [text for one in (value if parameter.multiple else [value]) for text in (option, str(one))]


def goal_lines(goals: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each goal of a document: whether it was reached, and what was found."""
    return [f"{'met   ' if goal['reached'] else 'MISSED'}  {name}: {goal['found']}" for name, goal in goals.items()]


def publish(document: Mapping[str, Any], output: Path, as_json: bool, lines: Iterable[str]) -> None:
    """Write the document, then print it (``--json``) or ``lines``. Raises OSError."""
    write_json(output, document)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    for line in lines:
        click.echo(line)
    click.echo(f"wrote {output}", err=True)
