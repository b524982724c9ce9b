"""Tables of the default recipe: candidates on held-out images, and the recipe on the test images."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tokfilter.benchmarks.accuracy_document import mean_and_half_width
from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["recipe_table", "search_table"]

_PACKAGES: Final = ("torch", "timm")
_NAMES: Final = {
    "full_before_fine_tuning": "backbone, every token",
    "default recipe": "**token filter**",
    "default recipe, neighbours": "filter with neighbours",
    "default recipe: ToMe": "ToMe",
    "default recipe: EViT": "EViT",
    "default recipe: resolution": "lower resolution",
    "default recipe: norm": "largest norm",
    "default recipe: centre": "centre",
    "default recipe: random": "random",
}
"""Method of recipe.json -> its row."""


def recipe_table(document: Document) -> str:
    """Top-1 by method and budget, the points that the filter loses, and by how much it is ahead of other reducers."""
    lines = _head(document, "")
    seeds = len(document["settings"]["seeds"])
    for one, tokens, empty in _sets(document):
        lines.append(line(one["name"], "tokens kept", *map(str, tokens), *empty))
        for method, name in _NAMES.items():
            found = {row["tokens"]: row for row in one["rows"] if row["method"] == method}
            if not found:
                continue
            measured = max(len(row["top1"]) for row in found.values())
            if measured < seeds:
                name += f", {measured} seed{'s' if measured > 1 else ''}"
            lines.append(line("", name, *(_percent(found.get(k)) for k in tokens), *empty))
            if any(row["ahead"] for row in found.values()):
                ahead = (_points(found[k]["ahead"], "+") if k in found else "" for k in tokens)
                lines.append(line("", f"filter minus {name}, points", *ahead, *empty))
            elif len(found) > 1:
                lost = (_points(found[k]["lost"]) if k in found and k != tokens[0] else "" for k in tokens)
                lines.append(line("", "points lost against every token", *lost, *empty))
    images = ", ".join(f"{one['images']} of {one['name']}" for one in document["sets"])
    interval = document["settings"]["interval"]
    over = "One seed, no intervals" if seeds == 1 else f"Intervals: {interval}, fewer where a row says so"
    what = (
        "Top-1 in %, differences in points of the same seed; other reducers at the multiply-accumulates of the "
        "filtered model, nothing where even their smallest budget costs more; no row of them: not measured. "
        f"{over}; test images: {images}."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, _PACKAGES)}"])


def search_table(document: Document) -> str:
    """Top-1 of every candidate on held-out images of one data set or more, seed by seed."""
    lines = _head(document, "candidate")
    for one, tokens, empty in _sets(document):
        lines.append(line(one["name"], "tokens kept", *map(str, tokens), *empty))
        for name, seed in dict.fromkeys((row["candidate"], row["seed"]) for row in one["rows"]):
            found = {row["tokens"]: row for row in one["rows"] if (row["candidate"], row["seed"]) == (name, seed)}
            label = name if len(document["settings"]["seeds"]) == 1 else f"{name}, seed {seed}"
            lines.append(line("", label, *(f"{100 * found[k]['top1']:.2f}" for k in tokens), *empty))
    images = f"{document['settings']['held_out']} images that were held out of every training, the backbone's too"
    return "\n".join([*lines, "", f"Top-1 in % on {images}. {provenance(document, _PACKAGES)}"])


def _most(document: Document) -> int:
    """Budgets of the data set that has most."""
    return max(len({row["tokens"] for row in one["rows"]}) for one in document["sets"])


def _head(document: Document, second: str) -> list[str]:
    return [line("set", second, *([""] * _most(document))), rule(2 + _most(document))]


def _sets(document: Document) -> Iterator[tuple[Any, list[int], list[str]]]:
    """Every data set with its budgets, largest first, and the empty cells behind them."""
    for one in document["sets"]:
        tokens = sorted({row["tokens"] for row in one["rows"]}, reverse=True)
        yield one, tokens, [""] * (_most(document) - len(tokens))


def _percent(row: Any) -> str:
    return "" if row is None else _written([100 * value for value in row["top1"]], "{:.1f}")


def _points(values: Sequence[float], sign: str = "") -> str:
    return _written(values, "{:" + sign + ".2f}")


def _written(values: Sequence[float], form: str) -> str:
    mean, half = mean_and_half_width(values)
    return form.format(mean) + ("" if half is None else f" ({form} to {form})".format(mean - half, mean + half))
