"""``study --check``: train one seed of a published study again, and compare it with the published rows.

A seed that was published is compared with its own value, in images, and with the interval. Any seed is compared with
the interval in which one more seed of the same distribution is expected with 95 % (Student's t, wider than the
interval of the mean by sqrt(seeds + 1)).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.study.methods import FILTER
from tokfilter.benchmarks.study.tasks import TASKS, Task
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header

__all__ = ["check_published", "lines_of_check", "published_study"]

_CHECKED: Final = ("full", FILTER)


def published_study(path: Path) -> tuple[dict[str, Any], Task]:
    """A document of the study and its task, with the document's settings.

    Raises DataError for a document of something else, or of fewer than two seeds, which have no interval.
    """
    document = document_from_file(path, "tokfilter/accuracy")
    name, settings = document["data"]["name"], document["settings"]
    if name not in TASKS or len(settings["seeds"]) < 2:
        raise DataError(
            f"{path}: expected a study of {' or '.join(TASKS)} with two seeds or more, got {name!r} with "
            f"{len(settings['seeds'])}. Published studies are in benchmarks/results."
        )
    task = TASKS[name]
    known = asdict(task.config)
    changed = {key: settings[key] for key in known if key in settings and settings[key] != known[key]}
    if any(type(value) is not type(known[key]) for key, value in changed.items()):
        raise DataError(f"{path}: settings of other types than the study's: {', '.join(sorted(changed))}.")
    return document, replace(task, config=replace(task.config, **changed))


def check_published(published: Mapping[str, Any], retrained: Mapping[str, Any], command: str) -> dict[str, Any]:
    """study-check.json: each row of a study with one seed beside the published row. Raises DataError if one is missing.

    inside: whether the retrained value is one that another seed would be expected to give
    images: of the same seed's published row, how many more images are right now; None for another seed
    """
    seeds, (seed,) = published["settings"]["seeds"], retrained["settings"]["seeds"]
    then = {(row["method"], row["tokens"]): row["top1"] for row in published["rows"]}
    images = retrained["data"]["images"]
    if images != published["data"]["images"]:
        raise DataError(f"the published rows are of {published['data']['images']} images, the new ones of {images}.")
    rows = []
    for row in retrained["rows"]:
        values, top1 = then.get((row["method"], row["tokens"]), []), row["top1"][0]
        if len(values) != len(seeds):
            raise DataError(
                f"the published study has {len(values)} values of {row['method']} at {row['tokens']} tokens, expected "
                f"one for each of its {len(seeds)} seeds: it is of another version of the study."
            )
        mean, half = mean_and_half_width(values)
        reach = (half or 0.0) * math.sqrt(len(seeds) + 1)
        more = round((top1 - values[seeds.index(seed)]) * images) if seed in seeds else None
        rows.append(
            {
                "method": row["method"], "tokens": row["tokens"], "top1": top1, "published": values,
                "low": max(0.0, mean - reach), "high": min(1.0, mean + reach),
                "inside": abs(top1 - mean) <= reach + 1e-9, "images": more,
            }
        )  # fmt: skip
    return {
        **header("study-check", command),
        "of": {key: published[key] for key in ("created", "command", "machine", "versions")},
        "data": retrained["data"],
        "settings": retrained["settings"],
        "rows": rows,
        "inside": all(row["inside"] for row in rows),
    }


def lines_of_check(check: Mapping[str, Any]) -> list[str]:
    """The comparison for a terminal: versions that differ, a line for each row, and the result."""
    now, then = check["versions"], check["of"]["versions"]
    names = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    lines = [f"{name}: published with {then.get(name, 'none')}, now {now.get(name, 'none')}" for name in names]
    for row in check["rows"]:
        own = "" if row["images"] is None else f", {row['images']:+d} images against the same seed"
        lines.append(
            f"{row['method']:8} {row['tokens']:3} tokens  top-1 {row['top1']:.2%}, expected "
            f"{row['low']:.2%} to {row['high']:.2%}: {'inside' if row['inside'] else 'OUTSIDE'}{own}"
        )
    return lines
