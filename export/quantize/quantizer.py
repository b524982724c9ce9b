"""INT8 and FP8 graphs of an export: calibrate once, check top-1, keep the layers in fp32 that cost most.

The same layers have the same scales in every form of a precision, so full and filtered differ in tokens only.
"""

import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from tokfilter.artifacts.bundle import Bundle
from tokfilter.errors import ExportError, VerificationError
from tokfilter.export.fp32_search import NoFp32SetError, kept_fp32, smallest_fp32_set
from tokfilter.export.layer_groups import Group
from tokfilter.export.options import ExportOptions
from tokfilter.export.precision import cast_precision
from tokfilter.export.quantize.calibration import largest_activations
from tokfilter.export.quantize.gate import BudgetResult, Gate, worst_of
from tokfilter.export.quantize.images import Pools, pools_from_folders
from tokfilter.export.quantize.nodes import FP8_OPSET, QUANTIZED, linears_of, quantized_graph
from tokfilter.export.verify import budgets_to_check
from tokfilter.vit.model import FilteredViT

__all__ = ["Quantizer", "check_options"]

_MOST_EXEMPT: Final = 2
"""At most one layer in so many stays in fp32: with more, the graph is hardly faster than the fp32 one."""


def check_options(options: ExportOptions, output: str = "logits") -> None:
    """Refuse options that do not fit int8 and fp8. ``output``: what the model gives. Raises ExportError."""
    wanted = [precision for precision in options.precisions if precision in QUANTIZED]
    if wanted and output != "logits":
        what = "masks" if output == "masks" else "embeddings"
        raise ExportError(
            f"{wanted[0]} is checked by its top-1, which a model with {what} has not: export it in fp32, fp16 or bf16."
        )
    if wanted and options.calibrate is None:
        raise ExportError(
            f"{wanted[0]} needs images to find the ranges of activations: add --calibrate with a folder of images, "
            "best 500 or more in one subfolder per class."
        )
    if not wanted and (options.calibrate is not None or options.check_images is not None):
        raise ExportError("--calibrate and --check-images are for int8 and fp8: add --precision int8.")
    if wanted and options.cuda:
        raise ExportError(
            f"--cuda fuses graphs in fp32, fp16 and bf16, not in {wanted[0]}: export {wanted[0]} without --cuda."
        )
    if "fp8" in wanted and options.opset < FP8_OPSET:
        raise ExportError(f"fp8 needs opset {FP8_OPSET} or later, got {options.opset}: add --opset {FP8_OPSET}.")


class Quantizer:
    """Makes the graphs of int8 and fp8 from a traced fp32 graph, in the slots form."""

    def __init__(
        self,
        bundle: Bundle,
        model: FilteredViT,
        options: ExportOptions,
        progress: Callable[[str], None],
    ) -> None:
        self.bundle, self.options, self.progress = bundle, options, progress
        self.patches, self.keep = model.num_patches, model.keep_tokens
        fixed = options.budgets(self.patches)
        self.budgets = sorted({*bundle.golden.logits, self.keep, *fixed, self.patches}, reverse=True)
        # From 1 token to all: with few tokens attention averages less, and its outputs are up to four times as large.
        calibrated = {*budgets_to_check(bundle.golden.logits, self.keep, self.patches), *fixed}
        self.calibrated = sorted(calibrated, reverse=True)
        self.records: dict[str, dict[str, Any]] = {}
        self._largest: dict[str, float] = {}
        self._scratch = ExitStack()
        self._pools: Pools | None = None
        self._gate: Gate | None = None

    def __enter__(self) -> "Quantizer":
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def graph(self, traced: ir.Model, precision: str, fp32: Collection[str] = ()) -> ir.Model:
        """The slots form of a traced graph in any precision, in which the nodes named ``fp32`` stay fp32."""
        if precision in QUANTIZED:
            return quantized_graph(traced, precision, self._largest, fp32)
        return cast_precision(traced, precision, fp32)

    def fitted(self, traced: ir.Model, precision: str) -> dict[str, Any]:
        """Calibrate and check a precision of ``QUANTIZED``. Returns ``Entry.kept_fp32``.

        Raises DataError, ExportError; VerificationError where top-1 drops by more than ``max_drop``.
        """
        gate, pools = self._ready(traced)
        results: list[BudgetResult] = []
        kept: dict[str, Any] = {}
        if self.options.verify:
            results = gate.results(self.graph(gate.fp32, precision), precision)
            if not self._passes(results):
                kept, results = self._searched(precision, gate, results)
        self.records[precision] = {
            **pools.as_dict(),
            "calibration_budgets": self.calibrated,
            "max_drop": self.options.max_drop,
            "layers": len(linears_of(traced)),
            "in_fp32": list(kept.get("groups", {})),
            "resolution": max((result.difference.resolution for result in results), default=None),
            "budgets": [result.as_dict() for result in results],
        }
        return kept

    def _ready(self, traced: ir.Model) -> tuple[Gate, Pools]:
        """Images, ranges and the gate, the same for int8 and fp8."""
        if self._gate is not None and self._pools is not None:
            return self._gate, self._pools
        assert self.options.calibrate is not None, "check_options requires it"
        bundle = self.bundle
        self.progress("reading images for calibration")
        classes = bundle.golden.full.shape[1]
        names = bundle.class_names
        pools = pools_from_folders(
            self.options.calibrate, self.options.check_images, bundle.preprocessing, names, classes
        )
        scratch = Path(self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="tokfilter-")))
        self._largest = largest_activations(
            traced,
            sorted({linear.activation for linear in linears_of(traced)}),
            pools.calibration,
            bundle.preprocessing,
            self.calibrated,
            scratch,
            self.progress,
        )
        gate = Gate(traced, pools, bundle.preprocessing, self.budgets, self.patches, scratch, self.progress)
        self._gate, self._pools = gate, pools
        return gate, pools

    def _passes(self, results: Sequence[BudgetResult]) -> bool:
        return worst_of(results).difference.drop <= self.options.max_drop

    def _searched(
        self, precision: str, gate: Gate, failed: Sequence[BudgetResult]
    ) -> tuple[dict[str, Any], list[BudgetResult]]:
        """The fewest layers in fp32 with which top-1 drops by no more than wanted, and the results with them."""
        candidates = self._by_cost(precision, gate)
        most = len(candidates) // _MOST_EXEMPT
        found: list[BudgetResult] = []
        last: list[BudgetResult] = list(failed)
        done = 0

        def passes(chosen: Sequence[Group]) -> bool:
            nonlocal done, last
            done += 1
            self.progress(f"{precision}: {len(chosen)} of {len(candidates)} layers in fp32, {chosen[0].name} first")
            last = gate.results(self.graph(gate.fp32, precision, _names(chosen)), precision)
            if self._passes(last):
                found[:] = last
                return True
            return False

        try:
            chosen, minimal = smallest_fp32_set(candidates[:most], passes, self.options.auto_fp32_builds)
        except NoFp32SetError:
            raise VerificationError(self._refusal(precision, failed, last, candidates[:most])) from None
        return kept_fp32(chosen, minimal, done), found

    def _by_cost(self, precision: str, gate: Gate) -> list[Group]:
        """The layers, that with the largest error of the logits first, each quantised alone."""
        layers = [Group(linear.name, (linear.node,)) for linear in linears_of(gate.fp32)]
        nodes = {node for group in layers for node in group.nodes}
        errors = {}
        for number, group in enumerate(layers):
            self.progress(f"{precision}: error of layer {number + 1} of {len(layers)}")
            alone = quantized_graph(gate.fp32, precision, self._largest, nodes - set(group.nodes))
            errors[group.name] = gate.error(alone, precision, self.keep)
        return sorted(layers, key=lambda group: errors[group.name], reverse=True)

    def _refusal(
        self,
        precision: str,
        first: Sequence[BudgetResult],
        last: Sequence[BudgetResult],
        exempt: Sequence[Group],
    ) -> str:
        worst = worst_of(first)
        (low, high), images = worst.difference.interval, worst.difference.images
        what = "points of top-1 are lost" if worst.top1 is not None else "% of the images change their top-1 class"
        names = ", ".join(group.name for group in exempt[:3])
        with_fp32 = f", and {worst_of(last).difference.drop:.2f} with {len(exempt)} layers in fp32 ({names}...)"
        return (
            f"{precision} does not reach --max-drop {self.options.max_drop:g}; nothing was written. At {worst.tokens} "
            f"tokens {worst.difference.drop:.2f} {what} on {images} images (95 % interval {low:.2f} to "
            f"{high:.2f}){with_fp32 if exempt else ''}. Raise --max-drop, give --calibrate images like those that the "
            "model will see, or choose another --precision."
        )


def _names(groups: Sequence[Group]) -> list[str]:
    return [node for group in groups for node in group.nodes]
