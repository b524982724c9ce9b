"""Top-1 and kept tokens of a quantised graph against the fp32 graph, on the same images at every budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.export.onnx_file import cpu_session, save_graph
from tokfilter.export.quantize.images import ImagePool, Pools
from tokfilter.export.quantize.paired import PairedDifference
from tokfilter.export.selection import plain_graph

__all__ = ["BudgetResult", "Gate", "worst_of"]

_BATCH: Final = 10
_SAMPLE: Final = 64
"""Images on which the error of one quantised layer is measured."""


@dataclass(frozen=True)
class BudgetResult:
    """A quantised graph at one budget.

    fp32_top1, top1: in 0..1; None without labels
    difference: in correctness; without labels, in the top-1 class, an upper bound of the loss
    same_top1: fraction of the images with the top-1 class of the fp32 graph
    same_tokens: fraction of kept tokens in common with the fp32 graph
    """

    tokens: int
    fp32_top1: float | None
    top1: float | None
    difference: PairedDifference
    same_top1: float
    same_tokens: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the manifest; drops in points of top-1, with their 95 % interval."""
        low, high = self.difference.interval
        return {
            "tokens": self.tokens,
            "fp32_top1": self.fp32_top1,
            "top1": self.top1,
            "drop": self.difference.drop,
            "drop_low": low,
            "drop_high": high,
            "same_top1": self.same_top1,
            "same_tokens": self.same_tokens,
        }


def worst_of(results: Sequence[BudgetResult]) -> BudgetResult:
    """The result with the largest drop."""
    return max(results, key=lambda result: result.difference.drop)


@dataclass(frozen=True)
class _Answers:
    """classes: top-1 of each image, [M]; kept: [M, N] bool"""

    classes: NDArray[np.int64]
    kept: NDArray[np.bool_]


@dataclass
class Gate:
    """Compares graphs in the slots form with an fp32 graph, whose answers are computed once.

    fp32: the graph without Q/DQ nodes
    pools: top-1 is measured on ``check``, the error of one layer on ``calibration``
    budgets: patch tokens
    patches: N, all patch tokens
    scratch: a folder for graphs
    """

    fp32: ir.Model
    pools: Pools
    preprocessing: Preprocessing
    budgets: Sequence[int]
    patches: int
    scratch: Path
    progress: Callable[[str], None]
    _reference: dict[int, _Answers] = field(default_factory=dict, init=False)
    _sample: NDArray[np.float32] | None = field(default=None, init=False)

    def results(self, graph: ir.Model, precision: str) -> list[BudgetResult]:
        """One result per budget."""
        if not self._reference:
            self._reference = self._answers(self.fp32, "fp32")
        found = self._answers(graph, precision)
        return [self._compared(k, self._reference[k], found[k]) for k in self.budgets]

    def error(self, graph: ir.Model, precision: str, budget: int) -> float:
        """Mean square of the logits' error over that of the logits, on the first images of the calibration."""
        if self._sample is None:
            self._sample = self._logits(self.fp32, "fp32", budget)
        found = self._logits(graph, precision, budget)
        return float(((found - self._sample) ** 2).mean() / max((self._sample**2).mean(), np.finfo(np.float32).tiny))

    def _compared(self, k: int, reference: _Answers, found: _Answers) -> BudgetResult:
        count, classes = len(self.pools.check), self.pools.check.classes
        equal = reference.classes == found.classes
        common = (reference.kept & found.kept).sum() / reference.kept.sum()
        if classes is None:
            difference = PairedDifference(count, lost=int((~equal).sum()), gained=0)
            return BudgetResult(k, None, None, difference, float(equal.mean()), float(common))
        before, after = reference.classes == classes, found.classes == classes
        difference = PairedDifference(count, lost=int((before & ~after).sum()), gained=int((after & ~before).sum()))
        return BudgetResult(
            k, float(before.mean()), float(after.mean()), difference, float(equal.mean()), float(common)
        )

    def _answers(self, graph: ir.Model, precision: str) -> dict[int, _Answers]:
        session = self._session(graph, precision)
        classes: dict[int, list[Any]] = {k: [] for k in self.budgets}
        kept: dict[int, list[Any]] = {k: [] for k in self.budgets}
        pool = self.pools.check
        for number, images in enumerate(pool.batches(self.preprocessing, _BATCH)):
            self.progress(f"{precision}: classifying image {number * _BATCH + 1} of {len(pool)}")
            for k in self.budgets:
                logits, indices = session.run(None, {"images": images, "slots": np.zeros(k, np.int32)})
                mask = np.zeros((len(images), self.patches), bool)
                np.put_along_axis(mask, indices.astype(np.int64), True, axis=1)
                classes[k].append(logits.argmax(1))
                kept[k].append(mask)
        return {k: _Answers(np.concatenate(classes[k]), np.concatenate(kept[k])) for k in self.budgets}

    def _logits(self, graph: ir.Model, precision: str, budget: int) -> NDArray[np.float32]:
        session, slots = self._session(graph, precision), np.zeros(budget, np.int32)
        pool: ImagePool = self.pools.calibration
        batches, count = pool.batches(self.preprocessing, _BATCH), math.ceil(min(_SAMPLE, len(pool)) / _BATCH)
        parts = [session.run(["logits"], {"images": next(batches), "slots": slots})[0] for _ in range(count)]
        logits: NDArray[np.float32] = np.concatenate(parts)
        return logits

    def _session(self, graph: ir.Model, precision: str) -> Any:
        path = self.scratch / f"gate.{precision}.onnx"
        save_graph(plain_graph(graph), path)
        return cpu_session(path, precision)
