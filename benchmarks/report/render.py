"""The report: accuracy, speed and pictures of one model as report.json and as one self-contained HTML page.

report.json holds the source documents, the values derived from them, and the data of the pictures. Every number on the
page refers to its place in report.json.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.report.page import page_from_report
from tokfilter.benchmarks.report.summary import speed_from_rows, summary_from_documents
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.runtime.pictures import Picture

__all__ = ["render_report", "report_from_documents"]

MAX_DROP: Final = 0.01
"""Largest loss of top-1 of the budget in the headline: one percentage point."""

Document = Mapping[str, Any]

_REMEDIES: Final = {
    "accuracy": "`tokfilter eval model.pt DATA -o accuracy.json` measures it.",
    "speed": "`tokfilter bench OUT -o bench.json` measures it.",
    "pictures": "`tokfilter report --bundle model.pt` draws the kept tokens.",
}


def render_report(
    accuracy: Document | None,
    bench: Document | None,
    pictures: Sequence[Picture],
    path: Path,
    max_drop: float = MAX_DROP,
    real_size: Document | None = None,
) -> Path:
    """Write the page to ``path``, and report.json beside it under the same name. Returns the path of the latter.

    accuracy, bench: documents as their schemas describe them; None is left out and listed as absent
    max_drop: largest accepted loss of mean top-1, as a fraction of 1
    real_size: bench.json of a larger model with random weights; its speed-up stands below the headline
    Raises DataError when there is nothing to show, or when ``path`` does not end in .html.
    """
    if path.suffix != ".html":
        raise DataError(f"a report requires a path that ends in .html, got {path}.")
    report = report_from_documents(accuracy, bench, pictures, max_drop, real_size)
    data = path.with_suffix(".json")
    page = page_from_report(report, pictures, data.name)
    write_json(data, report)
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")
    return data


def report_from_documents(
    accuracy: Document | None,
    bench: Document | None,
    pictures: Sequence[Picture],
    max_drop: float = MAX_DROP,
    real_size: Document | None = None,
) -> dict[str, Any]:
    """report.json as a value. Raises DataError when there is nothing to show."""
    parts = {"accuracy": accuracy, "speed": bench, "pictures": pictures}
    if not any(parts.values()):
        raise DataError("a report requires accuracy.json, bench.json or pictures, got none of them.")
    report = {
        **header("report", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "accuracy": accuracy,
        "bench": bench,
        "story": summary_from_documents(accuracy, bench, max_drop),
        "pictures": [_picture_data(picture) for picture in pictures],
        "absent": [{"what": what, "remedy": _REMEDIES[what]} for what, value in parts.items() if not value],
    }
    if real_size is not None:
        report["real_size"] = real_size
        report["story"]["real_size"] = speed_from_rows(real_size["rows"])
    return report


def _picture_data(picture: Picture) -> dict[str, Any]:
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
