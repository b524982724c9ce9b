"""`--json`: the result of a command as one JSON object on standard output, with its schema and version."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

__all__ = ["echo_json", "json_option", "print_json"]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option ``--json``, in the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def print_json(schema: str, content: Mapping[str, Any]) -> None:
    """Print ``content`` with its schema (``tokfilter/SCHEMA``) and version: 1 where it has none of its own.

    content: plain values, and paths, which become text
    """
    echo_json({"schema": f"tokfilter/{schema}", "version": 1, **content})


def echo_json(document: Mapping[str, Any], indent: int | None = 2) -> None:
    """Print a document that has its schema. NaN and infinity, which JSON does not have, become null.

    indent: None for one line
    """
    click.echo(json.dumps(_plain(document), indent=indent, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
