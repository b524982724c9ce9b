"""Latency metrics with trtexec's names, percentile rule and warnings.

Source of the rules: NVIDIA/TensorRT, samples/common/sampleReporting.cpp (a892d22).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from tokfilter.runtime.session import Timing

__all__ = [
    "PERCENTILE_RULE",
    "UNSTABLE_CV",
    "Latency",
    "latency_from_samples",
    "percentile",
    "stability",
    "transfer_warnings",
]

PERCENTILE_RULE: Final = "trtexec: element n-1-floor((1-p/100)*n) of the ascending samples, no interpolation"
UNSTABLE_CV: Final = 0.025
"""Coefficient of variation above which trtexec calls a measurement unstable."""


@dataclass(frozen=True)
class Latency:
    """Summary of samples in milliseconds; cv is the population standard deviation over the mean."""

    count: int
    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    cv: float


def percentile(ascending: Sequence[float] | np.ndarray, p: float) -> float:
    """The p-th percentile by trtexec's rule, which drops floor((1 - p/100) * n) samples from the slow end.

    The product is exact: in binary floating point (1 - 0.9) * 10 falls short of 1. Raises ValueError.
    """
    n = len(ascending)
    if n == 0 or not 0 <= p <= 100:
        raise ValueError(f"a percentile requires samples and 0 <= p <= 100, got {n} samples and {p}")
    dropped = math.floor((100 - Fraction(str(p))) * n / 100)
    return float(ascending[max(n - 1 - dropped, 0)])


def latency_from_samples(samples: Sequence[float] | np.ndarray) -> Latency:
    """Summarise samples in milliseconds. Raises ValueError when there are none."""
    ascending = np.sort(np.asarray(samples, dtype=np.float64))
    if ascending.size == 0:
        raise ValueError("a latency requires at least one sample")
    mean = float(ascending.mean())
    return Latency(
        count=int(ascending.size),
        min=float(ascending[0]),
        max=float(ascending[-1]),
        mean=mean,
        median=float(np.median(ascending)),
        p90=percentile(ascending, 90),
        p95=percentile(ascending, 95),
        p99=percentile(ascending, 99),
        cv=float(ascending.std()) / mean if mean > 0 else 0.0,
    )


def stability(latency: Latency, gpu: bool = False) -> list[str]:
    """trtexec's warning for a high coefficient of variation, with the remedy for a GPU or a CPU."""
    if latency.cv <= UNSTABLE_CV:
        return []
    remedy = "lock the GPU's clocks" if gpu else "stop other programs and fix the clock frequency"
    return [f"unstable: coefficient of variation {latency.cv:.1%} is above {UNSTABLE_CV:.1%}; {remedy}"]


def transfer_warnings(timings: Sequence[Timing]) -> list[str]:
    """trtexec's warnings for GPU queries that wait for the host or for transfers."""
    if not timings:
        return []
    median = {
        name: float(np.median([getattr(t, name) for t in timings]))
        for name in ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms")
    }
    warnings = []
    if median["enqueue_ms"] > 0.8 * median["compute_ms"]:
        warnings.append("throughput may be bound by enqueue time: use a CUDA graph or a larger batch")
    for name, word in (("h2d_ms", "host-to-device"), ("d2h_ms", "device-to-host")):
        if median[name] >= median["compute_ms"]:
            warnings.append(f"throughput may be bound by {word} transfers: more streams would overlap them")
    return warnings
