"""JSON of strangers: bounded in size and depth, without the NaN and Infinity that JSON has not."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from tokfilter.artifacts.limits import MAX_JSON, MAX_JSON_DEPTH
from tokfilter.artifacts.zip_parts import open_regular

__all__ = ["json_from_bytes", "json_from_file"]


def json_from_file(path: Path, limit: int = MAX_JSON) -> Any:
    """What a JSON file holds. Raises OSError; ValueError: more than ``limit`` bytes, nested too deep, no JSON."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it must have at most {limit >> 20} MiB, got {size >> 20}")
        if not file.peek(1)[:1].strip(b"\0"):  # a hole of a sparse file
            raise ValueError("it is empty")
        return json_from_bytes(file.read(size))


def json_from_bytes(content: bytes) -> Any:
    """What a JSON text holds. Raises ValueError: no JSON, nested too deep, a text that UTF-8 does not have."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        found = json.loads(content.decode("utf-8"), parse_constant=refuse)
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(found)
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
