"""``tokfilter.bench``: full against filtered, as a document."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokfilter.artifacts.budget import Keep
from tokfilter.runtime.comparison.compare import compare
from tokfilter.runtime.comparison.rounds import BenchConfig
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["bench"]


def bench(
    directory: str | Path,
    keep: Sequence[Keep] = (1.0, 0.5),
    batch: Sequence[int] = (1,),
    *,
    duration_s: float = 3.0,
    options: SessionOptions | None = None,
) -> dict[str, Any]:
    """Measure latency of full and filtered in turn, after their outputs were compared with the golden tensors.

    directory: an export directory
    keep: budgets; every token (1.0) is always measured, because speed-ups refer to it
    batch: batch sizes
    duration_s: measured seconds per row
    options: runtime, precision, provider, threads ...; default: ONNX Runtime on the CPU in fp32
    Returns the content of bench.json (``benchmarks/schemas/bench.json``): ``rows`` holds one entry per batch and budget
    with ``latency_ms`` and ``speedup``. Raises VerificationError, DataError, BudgetError, EngineError.
    """
    config = BenchConfig.of_duration(duration_s, min(0.5, duration_s), 0.15)
    return compare(directory, batch, keep, options, config, command="tokfilter.bench")
