"""Numbers on the page: each is an HTML element with its value and its place in report.json."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from markupsafe import Markup, escape

__all__ = ["STYLES", "Numbers", "fact", "plain", "resolve"]

NARROW: Final = "\u202f"
"""Narrow no-break space: between a number and its unit, and between groups of three digits."""


def _grouped(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", NARROW)


def _significant(value: float) -> str:
    """At least three significant digits."""
    digits = 0 if value == 0 else 2 - math.floor(math.log10(abs(value)))
    return _grouped(value, min(max(digits, 0), 6))


def _scaled(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{_significant(value / unit)}{NARROW}{name}"
    return _significant(value)


def _bytes(value: float) -> str:
    unit, name = (2**30, "GiB") if value >= 2**30 else (2**20, "MiB")
    return f"{_significant(value / unit)}{NARROW}{name}"


def _distance(points: str) -> str:
    return f"{points} point" if points == "1" else f"{points} points"


STYLES: Final[Mapping[str, Callable[[float], str]]] = {
    "count": lambda value: _grouped(value, 0),
    "fraction": lambda value: f"{100 * value:.{1 if value < 0.0995 else 0}f}".removesuffix(".0") + f"{NARROW}%",
    "level": lambda value: f"{100 * value:.3g}{NARROW}%",
    "tick": lambda value: f"{value:,.10g}".replace(",", NARROW),
    "percent": lambda value: f"{100 * value:.1f}{NARROW}%",
    "points": lambda value: f"{100 * value:+.1f}".replace("-", "−"),
    "distance": lambda value: _distance(f"{100 * abs(value):.1f}".removesuffix(".0")),
    "ratio": lambda value: f"{value:.2f}×",
    "ms": _significant,
    "rate": _significant,
    "macs": _scaled,
    "bytes": _bytes,
}
"""Name of a style -> format of a number. Fractions of 1 are written as per cent or percentage points."""


class Numbers:
    """Writes numbers of one document as HTML, by their JSON pointers (RFC 6901)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __call__(self, pointer: str, style: str) -> Markup:
        """``<data value="0.9834" data-at="/accuracy/rows/3/mean">98.3 %</data>``; a dash where the value is null."""
        value = resolve(self.document, pointer)
        if value is None:
            return Markup('<span class="none" title="not measured">–</span>')
        return Markup('<data value="{}" data-at="{}" data-style="{}">{}</data>').format(
            escape(repr(value)), pointer, style, STYLES[style](value)
        )


def resolve(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer without escapes, such as ``/rows/3/mean``. Raises KeyError, IndexError."""
    for part in pointer.split("/")[1:]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def plain(value: Any) -> str:
    """A setting as text: lists with commas, mappings as name and value, digits in groups of three."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, int):
        return _grouped(value, 0)
    return f"{value:g}" if isinstance(value, float) else str(value)


def fact(key: str, value: Any) -> tuple[str, str]:
    """Display name and value of a setting; a unit at the end of a name moves to the value."""
    label = key.replace("_", " ")
    if key.endswith("_bytes") and isinstance(value, int):
        return label.removesuffix(" bytes"), _bytes(value)
    if key.endswith("_s") and isinstance(value, int | float):
        return label.removesuffix(" s"), f"{plain(value)}{NARROW}s"
    if key == "input_size":
        return label, " × ".join(map(plain, value))
    return label, plain(value)
