"""The micro-benchmark of TokenSelect without its GPU: cases, the bytes that any method must move, what samples say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tokfilter.runtime.measure.metrics import latency_from_samples, stability

__all__ = ["CASES", "DTYPES", "Case", "Measurement", "gigabytes_per_second", "table", "without_floor"]

DTYPES: Final = {"float32": 4, "float16": 2}
"""Types of tokens, with bytes per element. Scores are float32 in every precision that export writes."""
_SCORE_BYTES: Final = 4


@dataclass(frozen=True)
class Case:
    """One call of TokenSelect: tokens [batch, prefix + patches, channels] of ``dtype``, scores [batch, patches]."""

    model: str
    batch: int
    patches: int
    k: int
    channels: int
    dtype: str = "float16"
    prefix: int = 1

    @property
    def name(self) -> str:
        """E.g. "DeiT-S 98 of 196, batch 8, float16"."""
        return f"{self.model} {self.k} of {self.patches}, batch {self.batch}, {self.dtype}"

    @property
    def minimum_bytes(self) -> int:
        """Bytes that must cross global memory: every score once, every row of the result read once and written once."""
        rows = 2 * (self.prefix + self.k) * self.channels * DTYPES[self.dtype]
        return self.batch * (self.patches * _SCORE_BYTES + rows)


_MODELS: Final = (("DeiT-S", 196, 98, 384), ("ViT-B/16 384", 576, 288, 768), ("ViT-L/14 448", 1024, 512, 1024))

CASES: Final = tuple(
    Case(model, batch, patches, k, channels, dtype)
    for dtype in DTYPES
    for model, patches, k, channels in _MODELS
    for batch in (1, 8, 64)
)


@dataclass(frozen=True)
class Measurement:
    """One method on one case: samples in microseconds with the L2 cache warm and cold, or why there are none."""

    method: str
    warm_us: Sequence[float] = ()
    cold_us: Sequence[float] = ()
    skipped: str | None = None

    def as_dict(self, case: Case, peak_gb_s: float, floor_us: float) -> dict[str, Any]:
        """The report's entry. peak_gb_s: what a plain copy reaches here; floor_us: what timing nothing costs."""
        if self.skipped is not None:
            return {"method": self.method, "skipped": self.skipped}
        cold = without_floor(self.cold_us, floor_us)
        return {
            "method": self.method,
            "warm": _summary(self.warm_us, case.minimum_bytes, peak_gb_s),
            "cold": _summary(cold, case.minimum_bytes, peak_gb_s),
        }


def without_floor(samples_us: Sequence[float], floor_us: float) -> list[float]:
    """Single launches less the time between two events around a launch that does nothing; never below zero."""
    return [max(sample - floor_us, 0.0) for sample in samples_us]


def gigabytes_per_second(moved_bytes: int, microseconds: float) -> float:
    """Bandwidth in GB/s (10^9 bytes per second); infinite for no time at all."""
    return moved_bytes / microseconds / 1e3 if microseconds > 0 else float("inf")


def _summary(samples_us: Sequence[float], minimum_bytes: int, peak_gb_s: float) -> dict[str, Any]:
    latency = latency_from_samples(samples_us)
    achieved = gigabytes_per_second(minimum_bytes, latency.median)
    # A bandwidth above the peak is the cache's doing, and a time of zero has none: neither is a number to quote.
    known = achieved != float("inf")
    return {
        "microseconds": asdict(latency),
        "gb_s": achieved if known else None,
        "share_of_copy_bandwidth": achieved / peak_gb_s if known else None,
        "warnings": stability(latency, gpu=True),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The report's cases as text: method, microseconds warm and cold, share of the copy bandwidth when cold."""
    lines = []
    for row in rows:
        lines.append(f"{row['case']} (at least {row['minimum_bytes'] / 1e6:.3f} MB)")
        for entry in row["methods"]:
            if "skipped" in entry:
                lines.append(f"  {entry['method']:<34} skipped: {entry['skipped']}")
                continue
            warm, cold = entry["warm"]["microseconds"]["median"], entry["cold"]["microseconds"]["median"]
            share = entry["cold"]["share_of_copy_bandwidth"]
            text = "" if share is None else f"{share:6.0%}"
            lines.append(f"  {entry['method']:<34} warm {warm:9.2f} us   cold {cold:9.2f} us  {text}")
    return "\n".join(lines)
