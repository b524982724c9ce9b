"""JSON of strangers: bounded in size and depth, without what readers of JSON take for different things: a key twice,
NaN, Infinity, and numbers that become it.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final, NoReturn

from tokfilter.artifacts.limits import MAX_JSON, MAX_JSON_DEPTH, MAX_JSON_VALUES
from tokfilter.artifacts.zip_parts import open_regular

__all__ = ["json_from_bytes", "json_from_file"]

_DIGITS: Final = 300
"""Of a whole number that is surely below the largest float, 1.8e308."""


def json_from_file(path: Path, limit: int = MAX_JSON, values: int = MAX_JSON_VALUES) -> Any:
    """What a JSON file holds. Raises OSError; ValueError: more than ``limit`` bytes, or as ``json_from_bytes``."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it must have at most {limit >> 20} MiB, got {size >> 20}")
        if not file.peek(1)[:1].strip(b"\0"):  # a hole of a sparse file
            raise ValueError("it is empty")
        return json_from_bytes(file.read(size), values)


def json_from_bytes(content: bytes, values: int = MAX_JSON_VALUES) -> Any:
    """What a JSON text holds. Raises ValueError: no JSON, nested too deep, a key twice, half a character.

    values: most values; counted by commas and brackets, before memory is taken for them
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > values:
        raise ValueError(f"it has more than {values:,} values")
    try:
        found = json.loads(
            content.decode("utf-8"),
            parse_constant=_refused,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_object,
        )
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(found)
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is larger than any number that can be read")
    return number


def _whole(text: str) -> int:
    """A whole number that a float can hold, too: others overflow where something is computed with them."""
    if len(text) > _DIGITS:
        _finite(text)
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"it has the key {twice!r:.80} more than once")
    return found


def _check_depth(found: Any) -> None:
    """Raises ValueError."""
    level = [found]
    for _ in range(MAX_JSON_DEPTH + 1):
        containers = [value for value in level if isinstance(value, list | dict)]
        if not containers:
            return
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise ValueError(f"it is nested too deeply: more than {MAX_JSON_DEPTH} lists and objects within each other")
