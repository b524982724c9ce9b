"""Rules that give each image a budget of its own, applied to outputs at every budget.

By scores: a pass over patch embedding and filter ranks the tokens, and k follows from the scores of the image: those
above a threshold (as the paper filters), or as many as hold a share of the sum of softmax or sigmoid. The embedding and
the filter run twice, which is counted.

By confidence: a pass at a small budget, and for images whose highest probability (or its margin to the second, or the
negative entropy) is below a threshold another pass at a larger budget. All passes of an image are counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from tokfilter.benchmarks.study.image_outputs import Array, ImageOutputs

__all__ = ["CASCADES", "RATIOS", "RULES", "SCORE_RULES", "Applied", "applied", "candidates", "levels_of", "oracle"]

SCORE_RULES: Final = ("score threshold", "softmax mass", "sigmoid mass")
CASCADES: Final = ("probability", "margin", "entropy")
RULES: Final = (*SCORE_RULES, *CASCADES)
RATIOS: Final = (0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.7, 1.0)
"""Budgets that an image may get. A few, so that batches form."""

_STEPS: Final = 40


@dataclass(frozen=True)
class Applied:
    """A rule on n images. correct: [n]; macs: [n], all passes; tokens: [n], of the last pass."""

    rule: str
    settings: Mapping[str, Any]
    correct: Array
    macs: Array
    tokens: Array


def levels_of(patches: int, ratios: Sequence[float] = RATIOS) -> list[int]:
    """The budgets in tokens, ascending."""
    return sorted({max(1, int(ratio * patches + 1e-9)) for ratio in ratios})


def candidates(outputs: ImageOutputs, rule: str) -> Iterator[dict[str, Any]]:
    """Settings of a rule to choose from; thresholds are quantiles of what they are compared with."""
    levels = levels_of(outputs.scores.shape[1])
    if rule in SCORE_RULES:
        for threshold in _thresholds(outputs, rule):
            yield {"levels": levels, "threshold": float(threshold)}
        return
    for count in (2, 3):
        for chosen in combinations(levels, count):
            values = outputs.confidence[rule][:, np.searchsorted(outputs.budgets, chosen[0])]
            for threshold in np.unique(np.quantile(values, np.linspace(0, 1, _STEPS + 1)[1:-1])):
                yield {"levels": list(chosen), "threshold": float(threshold)}


def applied(outputs: ImageOutputs, rule: str, settings: Mapping[str, Any]) -> Applied:
    """A rule with settings on every image."""
    columns, threshold = np.searchsorted(outputs.budgets, settings["levels"]), settings["threshold"]
    if rule in SCORE_RULES:
        levels = outputs.budgets[columns]
        needed = np.clip(_needed(outputs.scores, rule, threshold), 1, levels[-1])
        chosen = columns[np.searchsorted(levels, needed)]
        macs = outputs.macs[chosen] + outputs.scoring
    else:
        chosen, macs = _cascade(outputs, rule, columns, threshold)
    return Applied(rule, settings, outputs.correct[np.arange(len(chosen)), chosen], macs, outputs.budgets[chosen])


def oracle(outputs: ImageOutputs, levels: Sequence[int]) -> Applied:
    """The smallest level at which an image is right, known in advance; the smallest of all where none is."""
    columns = np.searchsorted(outputs.budgets, levels)
    right: Array = outputs.correct[:, columns]
    chosen = columns[right.argmax(1)]
    settings = {"levels": [int(level) for level in levels]}
    return Applied("oracle", settings, np.asarray(right.any(1)), outputs.macs[chosen], outputs.budgets[chosen])


def _cascade(outputs: ImageOutputs, rule: str, columns: Array, threshold: float) -> tuple[Array, Array]:
    """The column of each image's last pass [n], and the multiply-accumulates of all its passes [n]."""
    chosen, macs = np.full(len(outputs.labels), columns[0]), np.zeros(len(outputs.labels))
    going = np.ones(len(chosen), bool)
    for column, following in zip(columns, [*columns[1:], None], strict=True):
        chosen[going] = column
        macs[going] += outputs.macs[column]
        if following is not None:
            going &= outputs.confidence[rule][:, column] < threshold
    return chosen, macs


def _needed(scores: Array, rule: str, threshold: float) -> Array:
    """[n], tokens that an image needs."""
    if rule == "score threshold":
        above: Array = (scores > threshold).sum(1)
        return above
    shares = _shares(scores, rule)
    needed: Array = 1 + (np.cumsum(shares, axis=1) < threshold).sum(1)
    return needed


def _shares(scores: Array, rule: str) -> Array:
    """[n, N], descending, of sum 1."""
    ordered = -np.sort(-scores.astype(np.float64), axis=1)
    weights = np.exp(ordered - ordered[:, :1]) if rule == "softmax mass" else 1 / (1 + np.exp(-ordered))
    shares: Array = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _thresholds(outputs: ImageOutputs, rule: str) -> Array:
    steps = np.linspace(0, 1, _STEPS * 5 + 1)[1:-1]
    if rule == "score threshold":
        found: Array = np.unique(np.quantile(outputs.scores, steps))
        return found
    return np.unique(np.quantile(np.cumsum(_shares(outputs.scores, rule), axis=1), steps))
