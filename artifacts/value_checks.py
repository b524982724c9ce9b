"""Checks of values from JSON, put together to checks of a whole document: bounded, with the place of what is wrong."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tokfilter.artifacts.limits import MAX_COUNT, MAX_TEXT

__all__ = [
    "Check",
    "anything",
    "either",
    "expect",
    "flag",
    "mapping",
    "number",
    "one_of",
    "optional",
    "pattern",
    "plain",
    "record",
    "sequence",
    "text",
    "whole",
]

_DEPTH: Final = 16

Check = Callable[[Any, str], None]
"""(value, its place in the document). Raises ValueError with what is expected and what is there."""


def record(required: Mapping[str, Check], optional: Mapping[str, Check], others: Check | None = None) -> Check:
    """An object with these keys. ``others`` checks the values of further keys; None refuses them."""

    def check(value: Any, place: str) -> None:
        expect(isinstance(value, dict), place, "an object", value)
        missing = [key for key in required if key not in value]
        if missing:
            raise ValueError(f"{place or 'it'} lacks {missing[0]}")
        for key, item in value.items():
            found = required.get(key) or optional.get(key) or others
            if found is None:
                raise ValueError(
                    f"{place or 'it'} has the unknown key {_shown(key)}; a newer tokfilter may have written it: update"
                )
            if found is others:
                expect(len(key) <= 200, place, "keys of at most 200 characters", key)
            found(item, f"{place}.{key[:200]}".lstrip("."))

    return check


def mapping(keys: Check, values: Check, most: int) -> Check:
    """An object of at most ``most`` keys, each key and each value checked."""

    def check(value: Any, place: str) -> None:
        expect(isinstance(value, dict) and len(value) <= most, place, f"an object of at most {most} keys", value)
        for key, item in value.items():
            keys(key, f"a key of {place}")
            values(item, f"{place}[{_shown(key)}]")

    return check


def sequence(items: Check, most: int, least: int = 0) -> Check:
    """A list of ``least`` to ``most`` values, each checked."""
    expected = f"{most} values" if least == most else f"a list of at most {most} values"

    def check(value: Any, place: str) -> None:
        expect(isinstance(value, list) and least <= len(value) <= most, place, expected, value)
        for index, item in enumerate(value):
            items(item, f"{place}[{index}]")

    return check


def one_of(names: tuple[str, ...]) -> Check:
    """A text of a closed set."""
    expected = f"one of {', '.join(names)} (a newer tokfilter may know others: update)"
    return lambda value, place: expect(isinstance(value, str) and value in names, place, expected, value)


def whole(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""
    return lambda value, place: expect(
        _is_whole(value) and low <= value <= high, place, f"a count between {low} and {high}", value
    )


def number(low: float, high: float) -> Check:
    """A number from ``low`` to ``high``."""

    def check(value: Any, place: str) -> None:
        known = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        expect(known, place, f"a number from {low:g} to {high:g}", value)

    return check


def text(most: int) -> Check:
    """A text of at most ``most`` characters."""
    return lambda value, place: expect(
        isinstance(value, str) and len(value) <= most, place, f"text of at most {most} characters", value
    )


def optional(check: Check) -> Check:
    """None, or what ``check`` takes."""
    return lambda value, place: None if value is None else check(value, place)


def either(of_text: Check, other: Check) -> Check:
    """A text that ``of_text`` takes, or another value that ``other`` takes."""
    return lambda value, place: (of_text if isinstance(value, str) else other)(value, place)


def pattern(form: str, expected: str) -> Check:
    """A text that the regular expression ``form`` matches as a whole."""
    compiled = re.compile(form)
    return lambda value, place: expect(
        isinstance(value, str) and compiled.fullmatch(value) is not None, place, expected, value
    )


def flag(value: Any, place: str) -> None:
    """True or false."""
    expect(isinstance(value, bool), place, "true or false", value)


def anything(value: Any, place: str) -> None:
    """Any value."""


def plain(value: Any, place: str, depth: int = 0) -> None:
    """Any value of JSON, nested at most 16 deep, texts bounded."""
    expect(depth < _DEPTH, place, f"values nested at most {_DEPTH} deep", "more")
    if isinstance(value, str):
        text(MAX_TEXT)(value, place)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        plain(item, place, depth + 1)
    if isinstance(value, dict):
        for key in value:
            text(MAX_TEXT)(key, place)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def expect(fits: bool, place: str, expected: str, value: Any) -> None:
    """Raise ValueError with place, expectation and value unless the value fits."""
    if not fits:
        raise ValueError(f"{place or 'it'} must be {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """The value as ASCII, cut short, without building the text of a large one."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    if isinstance(value, int) and abs(value) > MAX_COUNT:
        return "a larger number"
    found = ascii(value[:80] if isinstance(value, str) else value)
    return found if len(found) <= 80 else f"{found[:77]}..."
