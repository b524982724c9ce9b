"""The settings of a recipe by dotted name: type, range, nearest names, values as typed."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from tokfilter.artifacts.budget import KEEP_HELP, Keep, keep_from_text
from tokfilter.errors import DataError, RecipeError
from tokfilter.train.auto_augment import check_policy
from tokfilter.train.recipe import Recipe

__all__ = ["Kind", "checked_value", "kind_of", "kinds", "unknown_setting", "value_from_text"]

_LIMIT: Final = 2**63  # larger numbers are mistakes


@dataclass(frozen=True)
class Kind:
    """Type and range of a setting.

    kind: int, float, bool, str, "keep", "stages" or "numbers"
    choices: the values of a str that has a fixed set
    bounds: interval of a number, such as ``(0, 1]``
    """

    kind: type | str
    optional: bool
    choices: tuple[str, ...]
    bounds: str | None
    help: str

    @property
    def expected(self) -> str:
        """The values that fit, for error messages."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        names = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a text",
            "keep": KEEP_HELP,
            "stages": "a list of stages",
            "numbers": "a list of whole numbers",
        }
        return names[self.kind] + (f" in {self.bounds}" if self.bounds else "")


@cache
def kinds() -> dict[str, Kind]:
    """All settings by dotted name, in the order in which they are printed."""
    return dict(_settings(Recipe, ""))


def _settings(cls: type, prefix: str) -> Iterator[tuple[str, Kind]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            yield from _settings(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", _kind_from_hint(hints[item.name], **item.metadata)


def _kind_from_hint(hint: Any, help: str, bounds: str | None) -> Kind:
    members = {hint} if get_origin(hint) in (Literal, tuple) else set(get_args(hint)) or {hint}
    optional = type(None) in members
    members -= {type(None)}
    if members == {int, float}:
        return Kind("keep", optional, (), bounds, help)
    (member,) = members
    if get_origin(member) is Literal:
        return Kind(str, optional, get_args(member), bounds, help)
    if get_origin(member) is tuple:
        return Kind("numbers" if int in get_args(member) else "stages", optional, (), bounds, help)
    return Kind(member, optional, (), bounds, help)


def kind_of(name: str) -> Kind:
    """Type and range of a setting. Raises RecipeError for an unknown name."""
    if name not in kinds():
        raise unknown_setting(name)
    return kinds()[name]


def unknown_setting(name: str) -> RecipeError:
    """The error for a name that no setting has, with the nearest names."""
    known = list(kinds())
    table = [other for other in known if other.startswith(f"{name}.")]
    if table:
        return RecipeError(f"{name} is a table of a recipe, expected one of its settings: {', '.join(table)}.")
    last = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    near = last or difflib.get_close_matches(name, known, 3, 0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return RecipeError(f"a recipe has no setting {name!r}.{hint} `tokfilter train --print-recipe` lists all names.")


def value_from_text(kind: Kind, text: str) -> Any:
    """A value as typed, in the setting's type; text that is not of that type stays text and is refused later."""
    if kind.optional and text.lower() == "none":
        return None
    if kind.kind == "keep":
        return keep_from_text(text)
    if kind.kind == "stages":
        return [part.strip() for part in text.split(",")]
    if kind.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind.kind == "numbers":
        parts = [part.strip() for part in text.strip("[]").split(",")]
        return [int(part) if part.isdecimal() and len(part) < 20 else part for part in parts]
    if kind.kind in (int, float):
        for read in (int, float):
            try:
                return read(text)
            except ValueError:
                continue
    return text


def checked_value(name: str, value: Any) -> Any:
    """``value`` in the setting's type. Raises RecipeError with what was expected and got."""
    kind = kind_of(name)
    if value is None and kind.optional:
        return None
    fits = _converted(kind, value)
    if fits is None:
        raise RecipeError(f"{name} expects {kind.expected}, got {value!r:.200}.")
    if name == "data.auto_augment":
        try:
            check_policy(fits)
        except DataError as error:
            raise RecipeError(f"{name}: {error}") from error
    return fits


def _converted(kind: Kind, value: Any) -> Any:
    """``value`` in the setting's type, or None when it does not fit. A whole number fits where a float is expected."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind.kind == "keep":
        return keep_from_text(value) if isinstance(value, str) else _keep(value) if number else None
    if kind.kind == "stages":
        names = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        return tuple(value) if names and value else None
    if kind.kind == "numbers":
        sound = isinstance(value, list | tuple) and all(type(part) is int for part in value)
        return tuple(value) if sound and value else None
    if kind.kind is bool:
        return value if isinstance(value, bool) else None
    if kind.kind is str:
        return value if isinstance(value, str) and (not kind.choices or value in kind.choices) else None
    if not number or (kind.kind is int and not isinstance(value, Integral)) or not abs(value) < _LIMIT:
        return None  # NaN and infinity included
    fits = kind.bounds is None or _inside(value, kind.bounds)
    return (float(value) if kind.kind is float else int(value)) if fits else None


def _keep(value: Any) -> Keep | None:
    """A ratio or a count as a plain number; None out of range."""
    if isinstance(value, Integral):
        count = int(value)
        return count if 1 <= count < _LIMIT else None
    return float(value) if 0 < value <= 1 else None


def _inside(value: float, bounds: str) -> bool:
    low, high = (float(part) for part in bounds[1:-1].split(","))
    above = value >= low if bounds[0] == "[" else value > low
    below = value <= high if bounds[-1] == "]" else value < high
    return above and below
