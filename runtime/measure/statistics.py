"""Speed-ups with intervals, break-even points, and what multiply-accumulates predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.runtime.measure.metrics import (
    PERCENTILE_RULE,
    UNSTABLE_CV,
    Latency,
    latency_from_samples,
    percentile,
    stability,
)

__all__ = [
    "CONFIDENCE",
    "PERCENTILE_RULE",
    "UNSTABLE_CV",
    "BreakEven",
    "Interval",
    "Latency",
    "break_even",
    "latency_from_samples",
    "macs_at",
    "percentile",
    "speedup_from_pairs",
    "stability",
]

CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 5000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether two estimates agree within their intervals."""
        return self.low <= other.high and other.low <= self.high


def speedup_from_pairs(full_ms: Sequence[float], filtered_ms: Sequence[float], seed: int = 0) -> Interval:
    """Median of the ratios full / filtered, with a bootstrap interval (percentile method, pairs resampled).

    full_ms, filtered_ms: one latency each per round, of the same rounds
    Raises ValueError for no pairs, unequal lengths, or a latency that is not positive.
    """
    full, filtered = np.asarray(full_ms, np.float64), np.asarray(filtered_ms, np.float64)
    if full.shape != filtered.shape or full.ndim != 1 or full.size == 0:
        raise ValueError(f"a speed-up wants pairs, got {full.size} and {filtered.size} latencies")
    if not (np.isfinite(full).all() and np.isfinite(filtered).all() and min(full.min(), filtered.min()) > 0):
        raise ValueError("a speed-up wants positive, finite latencies")
    ratios = full / filtered
    drawn = np.random.default_rng(seed).integers(0, ratios.size, (_RESAMPLES, ratios.size))
    medians = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.median(ratios)), float(low), float(high))


def macs_at(card: ModelCard, tokens: int) -> int | None:
    """Multiply-accumulates per image at a budget, None when the card names too few budgets to know.

    A filtered model costs a + b*k + c*k*k (filter and embedding, linear layers, attention), so three known budgets
    give every other one exactly.
    """
    if tokens == card.num_patches:
        return card.macs.get("full")
    known = {int(name): value for name, value in card.macs.items() if name != "full"}
    if tokens in known:
        return known[tokens]
    if len(known) < 3:
        return None
    return round(_parabola(dict(sorted(known.items())[:: max(1, (len(known) - 1) // 2)]), tokens))


def _parabola(points: Mapping[int, int], x: int) -> Fraction:
    """The parabola through the first three points, at x (Lagrange)."""
    chosen = list(points.items())[:3]
    value = Fraction(0)
    for i, (xi, yi) in enumerate(chosen):
        term = Fraction(yi)
        for j, (xj, _) in enumerate(chosen):
            if j != i:
                term *= Fraction(x - xj, xi - xj)
        value += term
    return value


@dataclass(frozen=True)
class BreakEven:
    """From which budget on filtering pays, at one batch size.

    tokens, keep: the largest budget that is faster than full beyond doubt; None when none is
    """

    batch: int
    tokens: int | None
    keep: float | None
    sentence: str


def break_even(batch: int, speedups: Mapping[int, Interval], patches: int) -> BreakEven:
    """The largest budget whose interval, and that of every smaller budget measured, lies above 1.

    speedups: budget in tokens -> speed-up over full
    """
    paying: int | None = None
    for tokens in sorted(speedups):
        if speedups[tokens].low <= 1.0:
            break
        paying = tokens
    if not speedups:
        return BreakEven(batch, None, None, f"Batch {batch}: no filtered budget was measured.")
    if paying is None:
        sentence = f"Batch {batch}: no measured budget is faster than the full model beyond doubt."
        return BreakEven(batch, None, None, sentence)
    share = paying / patches
    sentence = f"Batch {batch}: filtering pays from {share:.0%} of the tokens ({paying} of {patches}) downwards."
    return BreakEven(batch, paying, share, sentence)
