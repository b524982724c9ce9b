"""The report: accuracy, speed and pictures of one model as report.json, and as one page that needs nothing else.

report.json holds the documents it was made from, what was derived from them, and the pictures' facts; report.html shows
it. Every number on the page carries its place in report.json.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tokfilter.artifacts.files import atomic_path, existing_file
from tokfilter.benchmarks.report.page import page_from_report
from tokfilter.benchmarks.report.story import story_from_documents
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.runtime.pictures import Picture

__all__ = ["document_from_file", "render_report", "report_from_documents"]

MAX_DROP: Final = 0.01
"""One point of top-1: up to this loss the page calls a budget good enough to lead with."""

Document = Mapping[str, Any]

_REMEDIES: Final = {
    "accuracy": "`tokfilter eval model.pt DATA -o accuracy.json` measures it.",
    "speed": "`tokfilter bench OUT -o bench.json` measures it.",
    "pictures": "`tokfilter report --bundle model.pt` shows the tokens that it keeps.",
}


def render_report(
    accuracy: Document | None,
    bench: Document | None,
    pictures: Sequence[Picture],
    path: Path,
    max_drop: float = MAX_DROP,
) -> Path:
    """Write the page to ``path``, and report.json beside it under the same name. Returns the path of the latter.

    accuracy, bench: documents as their schemas describe them; what is None is left out and named as absent
    max_drop: loss of mean top-1, as a share of one, up to which a budget counts as good enough
    Raises DataError when there is nothing to show, or when ``path`` does not end in .html.
    """
    if path.suffix != ".html":
        raise DataError(f"a report wants a path that ends in .html, got {path}.")
    report = report_from_documents(accuracy, bench, pictures, max_drop)
    data = path.with_suffix(".json")
    page = page_from_report(report, pictures, data.name)
    write_json(data, report)
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")
    return data


def report_from_documents(
    accuracy: Document | None, bench: Document | None, pictures: Sequence[Picture], max_drop: float = MAX_DROP
) -> dict[str, Any]:
    """report.json as a value. Raises DataError when there is nothing to show."""
    parts = {"accuracy": accuracy, "speed": bench, "pictures": pictures}
    if not any(parts.values()):
        raise DataError("a report wants accuracy.json, bench.json or pictures, got none of them.")
    return {
        **header("report", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "accuracy": accuracy,
        "bench": bench,
        "story": story_from_documents(accuracy, bench, max_drop),
        "pictures": [_facts(picture) for picture in pictures],
        "absent": [{"what": what, "remedy": _REMEDIES[what]} for what, value in parts.items() if not value],
    }


def _facts(picture: Picture) -> dict[str, Any]:
    patches = picture.grid[0] * picture.grid[1]
    choices = [
        {
            "tokens": choice.tokens,
            "keep": choice.tokens / patches,
            "predicted": choice.predicted,
            "probability": choice.probability,
            "indices": None if choice.indices is None else list(choice.indices),
        }
        for choice in picture.choices
    ]
    return {"grid": list(picture.grid), "truth": picture.truth, "choices": choices}


def document_from_file(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a document and hold it to its schema in ``schemas/``.

    schema: its name, such as ``tokfilter/bench``
    Raises DataError when there is none at ``path``, or when it breaks its schema, naming where.
    """
    name = schema.removeprefix("tokfilter/")
    path = existing_file(path, f"{name}.json")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:  # of JSON, and of text that is not UTF-8
        raise DataError(f"{path} wants to be JSON ({schema}), and is not: {error}.") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise DataError(f"{path} wants schema {schema!r}, got {found!r}. Are two files mixed up?")
    if content.get("version") != 1:
        raise DataError(f"{path} has version {content.get('version')!r} of {schema}; this tokfilter reads version 1.")
    rules = json.loads(files("tokfilter.benchmarks").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8"))
    breach = best_match(Draft202012Validator(rules).iter_errors(content))
    if breach is not None:
        raise DataError(f"{path} breaks its schema at {breach.json_path}: {breach.message:.200}. Measure again.")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
