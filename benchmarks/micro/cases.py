"""The micro-benchmark of TokenSelect, the parts without a GPU: cases, bytes that must be moved, statistics, table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tokfilter.runtime.measure.metrics import latency_from_samples, stability

__all__ = ["CASES", "DTYPES", "Measurement", "TimingCase", "gigabytes_per_second", "table", "without_floor"]

DTYPES: Final = {"float32": 4, "float16": 2}
"""Types of tokens, with bytes per element. Scores are float32 in every precision of export."""
_SCORE_BYTES: Final = 4


@dataclass(frozen=True)
class TimingCase:
    """One call of TokenSelect: tokens [batch, prefix + patches, channels] of ``dtype``, scores [batch, patches]."""

    model: str
    batch: int
    num_patches: int
    k: int
    channels: int
    dtype: str = "float16"
    prefix_tokens: int = 1

    @property
    def name(self) -> str:
        """E.g. "DeiT-S 98 of 196, batch 8, float16"."""
        return f"{self.model} {self.k} of {self.num_patches}, batch {self.batch}, {self.dtype}"

    @property
    def minimum_bytes(self) -> int:
        """Bytes that must cross global memory: every score read once, every row of the result read and written once."""
        rows = 2 * (self.prefix_tokens + self.k) * self.channels * DTYPES[self.dtype]
        return self.batch * (self.num_patches * _SCORE_BYTES + rows)


_MODELS: Final = (("DeiT-S", 196, 98, 384), ("ViT-B/16 384", 576, 288, 768), ("ViT-L/14 448", 1024, 512, 1024))

CASES: Final = tuple(
    TimingCase(model, batch, num_patches, k, channels, dtype)
    for dtype in DTYPES
    for model, num_patches, k, channels in _MODELS
    for batch in (1, 8, 64)
)


@dataclass(frozen=True)
class Measurement:
    """One method on one case: samples in microseconds with warm and with cold L2 cache, or why it was skipped."""

    method: str
    warm_us: Sequence[float] = ()
    cold_us: Sequence[float] = ()
    skipped: str | None = None

    def as_dict(self, case: TimingCase, peak_gb_s: float, floor_us: float) -> dict[str, Any]:
        """The report's entry. peak_gb_s: bandwidth of a plain copy; floor_us: measured time of an empty launch."""
        if self.skipped is not None:
            return {"method": self.method, "skipped": self.skipped}
        cold = without_floor(self.cold_us, floor_us)
        return {
            "method": self.method,
            "warm": _summary(self.warm_us, case.minimum_bytes, peak_gb_s),
            "cold": _summary(cold, case.minimum_bytes, peak_gb_s),
        }


def without_floor(samples_us: Sequence[float], floor_us: float) -> list[float]:
    """Times of single launches minus the time of an empty launch; at least zero."""
    return [max(sample - floor_us, 0.0) for sample in samples_us]


def gigabytes_per_second(moved_bytes: int, microseconds: float) -> float:
    """Bandwidth in GB/s (10^9 bytes per second); infinite for a time of zero."""
    return moved_bytes / microseconds / 1e3 if microseconds > 0 else float("inf")


def _summary(samples_us: Sequence[float], minimum_bytes: int, peak_gb_s: float) -> dict[str, Any]:
    latency = latency_from_samples(samples_us)
    achieved = gigabytes_per_second(minimum_bytes, latency.median)
    # With a warm cache the bandwidth can be above the copy's. A time of zero has no bandwidth.
    known = achieved != float("inf")
    return {
        "microseconds": asdict(latency),
        "gb_s": achieved if known else None,
        "share_of_copy_bandwidth": achieved / peak_gb_s if known else None,
        "warnings": stability(latency, gpu=True),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The report's cases as text: method, microseconds warm and cold, fraction of the copy bandwidth when cold."""
    lines = []
    for row in rows:
        lines.append(f"{row['case']} (at least {row['minimum_bytes'] / 1e6:.3f} MB)")
        for entry in row["methods"]:
            if "skipped" in entry:
                lines.append(f"  {entry['method']:<34} skipped: {entry['skipped']}")
                continue
            warm, cold = entry["warm"]["microseconds"]["median"], entry["cold"]["microseconds"]["median"]
            fraction = entry["cold"]["share_of_copy_bandwidth"]
            text = "" if fraction is None else f"{fraction:6.0%}"
            lines.append(f"  {entry['method']:<34} warm {warm:9.2f} us   cold {cold:9.2f} us  {text}")
    return "\n".join(lines)
