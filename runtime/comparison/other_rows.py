"""What a comparison with other engines adds to bench.json: their rows, and how ours stand to the best of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tokfilter.artifacts.manifest import ModelCard
from tokfilter.runtime.comparison.rounds import Cell
from tokfilter.runtime.measure.metrics import latency_from_samples, stability, transfer_warnings
from tokfilter.runtime.measure.statistics import macs_at, speedup_from_pairs
from tokfilter.runtime.session import Timing

__all__ = ["best_other", "gpu_metrics", "other_row"]


def other_row(cell: Cell) -> dict[str, Any]:
    """A row of ``against``: an engine that keeps every token, at one batch size."""
    latency, timings = latency_from_samples(cell.samples), cell.timings
    return {
        "engine": cell.spec.path,
        "batch": cell.batch,
        "latency_ms": asdict(latency),
        "gpu_ms": gpu_metrics(timings),
        "images_per_s": cell.batch / latency.median * 1e3,
        "warnings": stability(latency, gpu=bool(timings)) + transfer_warnings(timings),
        "memory": dict(cell.memory),
        "power": cell.power,
    }


def best_other(cell: Cell, others: Sequence[Cell], card: ModelCard, seed: int) -> dict[str, Any]:
    """The fastest other engine at this batch size, the speed-up over it, and that over the MAC ratio.

    Empty where there is no other engine.
    """
    if not others:
        return {}
    best = min(others, key=lambda other: float(np.median(other.samples)))
    speedup = speedup_from_pairs(best.medians, cell.medians, seed)
    macs, full_macs = macs_at(card, cell.tokens), macs_at(card, card.num_patches)
    efficiency = speedup.value * macs / full_macs if macs and full_macs else None
    return {"best_other": {"engine": best.spec.path, "speedup": asdict(speedup), "efficiency": efficiency}}


def gpu_metrics(timings: Sequence[Timing]) -> dict[str, Any] | None:
    """Metrics under the names that trtexec uses."""
    if not timings:
        return None
    samples = {
        "Latency": [t.latency_ms for t in timings],
        "Enqueue Time": [t.enqueue_ms for t in timings],
        "H2D Latency": [t.h2d_ms for t in timings],
        "GPU Compute Time": [t.compute_ms for t in timings],
        "D2H Latency": [t.d2h_ms for t in timings],
    }
    return {name: asdict(latency_from_samples(values)) for name, values in samples.items()}
