"""`--json`: the result of a command as one JSON object on standard output, with its schema and version."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

__all__ = ["json_option", "print_json"]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option ``--json``, in the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def print_json(schema: str, content: Mapping[str, Any]) -> None:
    """Print ``content`` with its schema (``tokfilter/SCHEMA``) and version: 1 where it has none of its own.

    content: plain values, and paths, which become text
    """
    document = {"schema": f"tokfilter/{schema}", "version": 1, **content}
    click.echo(json.dumps(document, indent=2, default=_text))


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")
