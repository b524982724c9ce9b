"""Speed-ups with bootstrap intervals, break-even budgets, MACs at any budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from tokfilter.artifacts.manifest import ModelCard

__all__ = ["CONFIDENCE", "BreakEven", "Interval", "break_even", "macs_at", "speedup_from_pairs"]

CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 5000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals overlap."""
        return self.low <= other.high and other.low <= self.high


def speedup_from_pairs(full_ms: Sequence[float], filtered_ms: Sequence[float], seed: int = 0) -> Interval:
    """Median of the ratios full / filtered, with a bootstrap interval (percentile method, pairs resampled).

    Equal to scipy.stats.bootstrap with the same generator (tested); written out here because a Jetson that only
    benchmarks needs no scipy (35 MB).

    full_ms, filtered_ms: one latency per round, of the same rounds
    Raises ValueError for no pairs, unequal lengths, or a latency that is not positive.
    """
    full, filtered = np.asarray(full_ms, np.float64), np.asarray(filtered_ms, np.float64)
    if full.shape != filtered.shape or full.ndim != 1 or full.size == 0:
        raise ValueError(f"a speed-up requires pairs, got {full.size} and {filtered.size} latencies")
    if not (np.isfinite(full).all() and np.isfinite(filtered).all() and min(full.min(), filtered.min()) > 0):
        raise ValueError("a speed-up requires positive, finite latencies")
    ratios = full / filtered
    drawn = np.random.default_rng(seed).integers(0, ratios.size, (_RESAMPLES, ratios.size))
    medians = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.median(ratios)), float(low), float(high))


def macs_at(card: ModelCard, tokens: int) -> int | None:
    """Multiply-accumulates per image at a budget, None when the model card lists too few budgets.

    A filtered model has a + b*k + c*k*k MACs (filter and embedding, linear layers, attention), so three known budgets
    determine every other one exactly.
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
    """Largest budget that is faster than the full model, at one batch size.

    tokens, keep: it and every smaller measured budget have intervals above 1; None when there is none
    """

    batch: int
    tokens: int | None
    keep: float | None
    sentence: str


def break_even(batch: int, speedups: Mapping[int, Interval], patches: int) -> BreakEven:
    """The largest budget whose interval, and that of every smaller budget measured, lies above 1.

    speedups: budget in tokens -> speed-up over full
    """
    largest: int | None = None
    for tokens in sorted(speedups):
        if speedups[tokens].low <= 1.0:
            break
        largest = tokens
    if not speedups:
        return BreakEven(batch, None, None, f"Batch {batch}: no filtered budget was measured.")
    if largest is None:
        sentence = f"Batch {batch}: no measured budget is faster than the full model (95 % intervals)."
        return BreakEven(batch, None, None, sentence)
    keep = largest / patches
    sentence = (
        f"Batch {batch}: faster than the full model at {keep:.0%} of the tokens ({largest} of {patches}) or fewer."
    )
    return BreakEven(batch, largest, keep, sentence)
