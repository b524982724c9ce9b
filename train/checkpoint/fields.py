"""JSON files of strangers: bounded in size and depth, and their values read with a type and a range."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.json_file import json_from_file
from tokfilter.errors import DataError

__all__ = ["Fields", "read_json"]


def read_json(path: Path, what: str) -> "Fields":
    """The object in a JSON file. Raises DataError: no such file, too large, not JSON, nested too deeply, no object."""
    path = existing_file(path, what)
    try:
        value = json_from_file(path)
    except ValueError as error:
        raise DataError(f"{path} is not the JSON of {what}: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not {what}: expected an object, got a {type(value).__name__}.")
    return Fields(value, str(path))


class Fields:
    """Values of a JSON object by key. Every reader raises DataError with source, key, the range and what was found."""

    def __init__(self, values: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.values = {**(defaults or {}), **values}
        self.source = source

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same with values for absent keys."""
        return Fields(self.values, self.source, defaults)

    def part(self, key: str) -> "Fields":
        """The object under a key; an empty one where it is absent."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return Fields(value, f"{self.source}, {key}")

    def text(self, key: str, default: str = "") -> str:
        """A text of at most 200 characters."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 200:
            raise self.error(key, "a text of at most 200 characters")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def count(self, key: str, low: int, high: int) -> int:
        """A whole number in low..high."""
        value = self.values.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number above low and at most high."""
        value = self._finite(self.values.get(key))
        if value is None or not low < value <= high:
            raise self.error(key, f"a number above {low:g} and at most {high:g}")
        return value

    def pair(self, key: str, low: int, high: int) -> tuple[int, int]:
        """(height, width), written as one number or as two."""
        value = self.values.get(key)
        if not isinstance(value, list):
            side = self.count(key, low, high)
            return side, side
        return self._pair(key, value, low, high)

    def triple(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        """A number per channel, written as one or as three, each in low..high."""
        value = self.values.get(key)
        parts = value if isinstance(value, list) else [value] * 3
        numbers = [self._finite(part) for part in parts[:4]]
        found = [number for number in numbers if number is not None and low <= number <= high]
        if len(parts) != 3 or len(found) != 3:
            raise self.error(key, f"three numbers from {low:g} to {high:g}")
        return found[0], found[1], found[2]

    def error(self, key: str, wanted: str) -> DataError:
        """The error for a value that is not what was wanted."""
        return DataError(f"{self.source}: {key} must be {wanted}, got {self.values.get(key)!r:.100}.")

    def _pair(self, key: str, value: Sequence[Any], low: int, high: int) -> tuple[int, int]:
        sides = [side for side in value[:3] if type(side) is int and low <= side <= high]
        if len(value) != 2 or len(sides) != 2:
            raise self.error(key, f"one or two whole numbers from {low} to {high}")
        return sides[0], sides[1]

    @staticmethod
    def _finite(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
