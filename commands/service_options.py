"""Options of `tokfilter serve` that bound what a client can take: one for each field of ``Limits``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from tokfilter.runtime.service.limits import Limits

__all__ = ["limit_options", "limits_from"]


@dataclass(frozen=True)
class _Limit:
    """An option and its field.

    unit: what 1 of the option is in the field
    least: smallest value; a whole number where the option takes only those
    """

    option: str
    field: str
    unit: float
    least: float
    help: str


_LIMITS: Final = (
    _Limit("queue", "admitted", 1, 1, "Most requests in flight."),
    _Limit("wait-ms", "wait_ms", 1, 0.0, "Wait for a fuller batch."),
    _Limit("body-mb", "body_bytes", 1e6, 0.001, "Largest file."),
    _Limit("megapixels", "pixels", 1e6, 0.001, "Largest image."),
    _Limit("body-s", "body_s", 1, 0.1, "Time to send a file."),
    _Limit("grace-s", "grace_s", 1, 0.0, "Time after which a slow file makes room for others, where --queue is full."),
    _Limit("bodies-mb", "bodies_bytes", 1e6, 0.001, "Files in memory before they are decoded."),
    _Limit("decoders", "decoders", 1, 1, "Threads that decode images."),
    _Limit("connections", "connections", 1, 1, "Most connections."),
    _Limit("per-address", "per_address", 1, 1, "Most connections from one address. Behind a proxy all come from one."),
    _Limit("header-kb", "header_bytes", 1024, 1.0, "Largest head of a request."),
    _Limit("header-s", "header_s", 1, 0.1, "Time to send a head."),
    _Limit(
        "keep-alive-s",
        "keep_alive_s",
        1,
        0.1,
        "Time without a request until a connection is closed. Behind a proxy: longer than the proxy's.",
    ),
)


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, with the defaults of ``Limits``; ``limits_from`` reads them."""
    draft = "--draft/--no-draft"
    command = click.option(
        draft, default=Limits().draft, show_default=True, help="Decode large JPEG files at a reduced size (docs)."
    )(command)
    for limit in reversed(_LIMITS):
        whole = isinstance(limit.least, int)
        default = getattr(Limits(), limit.field) / limit.unit
        command = click.option(
            f"--{limit.option}",
            limit.field,
            type=click.IntRange(min=int(limit.least)) if whole else click.FloatRange(min=limit.least),
            default=int(default) if whole else default,
            show_default=True,
            help=limit.help,
        )(command)
    return command


def limits_from(params: Mapping[str, Any]) -> Limits:
    """The limits among the parameters of a command."""
    values = {limit.field: params[limit.field] * limit.unit for limit in _LIMITS}
    whole = {name for name, value in vars(Limits()).items() if isinstance(value, int)}
    return Limits(
        draft=params["draft"], **{name: int(value) if name in whole else value for name, value in values.items()}
    )
