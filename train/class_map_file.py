"""Class maps in timm's format: a text file with one class name per line; the line number is the class index."""

from collections import Counter
from pathlib import Path

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.limits import MAX_CLASS_MAP
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import DataError

__all__ = ["class_map_from_file"]


def class_map_from_file(path: Path) -> tuple[str, ...]:
    """Class names by index. Raises DataError: no text, too large, an empty line, a name that occurs twice."""
    path = existing_file(path, "a class map")
    if path.suffix.lower() != ".txt":
        raise DataError(f"a class map must be a .txt file with one class name per line, got {path}.")
    with open_regular(path) as file:
        content = file.read(MAX_CLASS_MAP + 1)
    if len(content) > MAX_CLASS_MAP:
        raise DataError(f"{path} must have at most {MAX_CLASS_MAP >> 20} MiB; a class map has one class name per line.")
    try:
        names = [line.strip() for line in content.decode("utf-8").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; a class map has one class name per line.") from error
    if not names or "" in names:
        raise DataError(f"{path}: line {names.index('') + 1 if names else 1} is empty; write one class name per line.")
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path} has class names twice: {', '.join(repeated[:5])}. Remove the repeated lines.")
    return tuple(names)
