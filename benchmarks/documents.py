"""Read measured documents: JSON, checked against the schemas in ``schemas/``."""

import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.json_file import json_from_file
from tokfilter.artifacts.limits import MAX_DOCUMENT, MAX_DOCUMENT_VALUES
from tokfilter.errors import DataError

__all__ = [
    "accuracy_from_file",
    "document_from_file",
    "evaluated_images",
    "similarity_from_file",
    "with_current_keys",
]

_ROW_KEYS: Final = {"predicted_speedup": "mac_ratio", "reached": "efficiency"}
"""Former -> present key of a row of bench.json."""

_FIGURE_KEYS: Final = {"reached": "met"}
"""Former -> present key of a runtime figure."""

_BREACHES: Final = 100
"""Breaches of a schema of which the one that says most is named; a document of wrong rows has one for each."""

_PARTS: Final = {
    "test": "test images",
    "held-out": "test images (held out by training)",
    "untrained": "test images (not trained on)",
    "all": "images (it is not known whether the model was trained on some)",
}
"""Part in accuracy.json -> what its images are."""


def document_from_file(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a document and check it against its schema.

    schema: its name, such as ``tokfilter/bench``
    Raises DataError when there is no file at ``path``, or when it does not match the schema, with the place.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    name = schema.removeprefix("tokfilter/")
    path = existing_file(path, f"{name}.json")
    try:
        content: dict[str, Any] = json_from_file(path, MAX_DOCUMENT, MAX_DOCUMENT_VALUES)
    except ValueError as error:  # of JSON, and of text that is not UTF-8
        raise DataError(f"{path}: expected JSON ({schema}), got {error}.") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise DataError(f"{path}: expected schema {schema!r}, got {found!r}. Check that the files are not mixed up.")
    if content.get("version") != 1:
        raise DataError(f"{path} has version {content.get('version')!r} of {schema}; this tokfilter reads version 1.")
    content = with_current_keys(content)
    rules = json.loads(files("tokfilter.benchmarks").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8"))
    breach = best_match(islice(Draft202012Validator(rules).iter_errors(content), _BREACHES))
    if breach is not None:
        where, what = breach.json_path, f"{breach.message:.200}"
        raise DataError(f"{path} does not match its schema at {where}: {what}. Measure again.")
    return content


def accuracy_from_file(path: str | Path) -> dict[str, Any]:
    """accuracy.json that is not of training images. Raises DataError for one that is."""
    return _untrained(path, document_from_file(path, "tokfilter/accuracy"))


def _untrained(path: str | Path, document: dict[str, Any]) -> dict[str, Any]:
    data = document["data"]
    if data.get("part") == "all" and data.get("trained"):
        raise DataError(
            f"{path} was measured on training images ({data['trained']} of {data['images']}): expected images that the "
            "model was not trained on. Evaluate again without --part all."
        )
    return document


def similarity_from_file(path: str | Path) -> dict[str, Any]:
    """similarity.json that is not of training images. Raises DataError for one that is."""
    return _untrained(path, document_from_file(path, "tokfilter/similarity"))


def evaluated_images(accuracy: Mapping[str, Any]) -> str:
    """What the images of accuracy.json are, in words."""
    data = accuracy["data"]
    studied = "test" if accuracy["settings"].get("seeds") else "all"  # of earlier versions
    words = _PARTS[data.get("part", studied)]
    return f"{words}, {data['trained']} of them the same as training images," if data.get("trained") else words


def with_current_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document whose renamed keys have their present names: bench.json, and runtime figures, which contain such."""
    current = dict(document)
    if current.get("schema") == "tokfilter/bench" and isinstance(current.get("rows"), list):
        current["rows"] = [_renamed(row, _ROW_KEYS) for row in current["rows"]]
    if current.get("schema") == "tokfilter/figures":
        current["figures"] = [_renamed(figure, _FIGURE_KEYS) for figure in current["figures"]]
        current["comparisons"] = [with_current_keys(comparison) for comparison in current["comparisons"]]
    return current


def _renamed(row: Any, keys: Mapping[str, str]) -> Any:
    return {keys.get(key, key): value for key, value in row.items()} if isinstance(row, dict) else row
