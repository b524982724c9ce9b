"""Options of an export, checked against the model before any work."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.limits import MAX_BATCH
from tokfilter.artifacts.manifest import Precision, Range
from tokfilter.artifacts.pixels import INPUT_FORMS, InputForm
from tokfilter.errors import BudgetError, ExportError
from tokfilter.trt.operators import ParserVersion
from tokfilter.trt.versions import MAX_OPSET

__all__ = [
    "DEFAULT_BATCH",
    "DEFAULT_FP32_BUILDS",
    "DEFAULT_MAX_DROP",
    "DEFAULT_OPSET",
    "PRECISIONS",
    "ExportOptions",
    "Precision",
    "range_from_text",
]

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
DEFAULT_BATCH: Final[Range] = (1, 8, 32)
DEFAULT_OPSET: Final = 18
DEFAULT_MAX_DROP: Final = 0.5
DEFAULT_FP32_BUILDS: Final = 13  # enough for any two groups of layers in a ViT of 12 blocks


@dataclass(frozen=True)
class ExportOptions:
    """What to write in addition to the graph with a free budget and the full graph.

    keeps: budgets that get a graph of their own
    batch_range, budget_range: (min, opt, max) of engines; None for the budget means 1 : default : all patch tokens
    precisions: each gives a set of graphs, and of engines
    cuda: also write each graph fused for ONNX Runtime's CUDA provider (``export/onnxruntime_cuda.py``)
    plugin_graphs: also write each filtered graph with the node TokenSelect, for TensorRT's plugin; ``trt`` does so too
    input: how graphs and engines take images: normalised floats, or pixels in 0..255 that the graph normalises
    plugin: whether TensorRT engines take the fused kernel (else native ops)
    plugin_library: where the plugin is; None means where `tokfilter plugin build` leaves it
    strip_functions: leave the function body out of the graphs for the plugin, for TensorRT before 10.7, which prefers
        it to the plugin
    auto_fp32: where outputs of a lower precision differ, find the layers that need fp32 and keep them so
    auto_fp32_builds: most graphs or engines that are built to find them, for each kind of engine
    verify: compare graphs with torch, and engines with the golden tensors
    verify_images: a folder of images for verification, in addition to the golden ones
    tensorrt8: versions (8.5, 8.6) for whose parsers graphs are written too, for trtexec (docs/tensorrt-8.md)
    calibrate: a folder of images for int8 and fp8, whose other images the gate on top-1 takes (``quantize``)
    check_images: a folder of images for that gate instead
    max_drop: points of top-1 that int8 and fp8 may lose against fp32 at any budget
    workspace, version_compatible, hardware, compute_capabilities: as in ``trt.build.BuildOptions``
    """

    keeps: tuple[Keep, ...] = ()
    batch_range: Range = DEFAULT_BATCH
    budget_range: Range | None = None
    opset: int = DEFAULT_OPSET
    precisions: tuple[Precision, ...] = ("fp32",)
    cuda: bool = False
    plugin_graphs: bool = False
    input: InputForm = "float"
    trt: bool = False
    rtx: bool = False
    plugin: bool = True
    plugin_library: Path | None = None
    strip_functions: bool = False
    tensorrt8: tuple[ParserVersion, ...] = ()
    verify: bool = True
    verify_images: Path | None = None
    auto_fp32: bool = False
    auto_fp32_builds: int = DEFAULT_FP32_BUILDS
    calibrate: Path | None = None
    check_images: Path | None = None
    max_drop: float = DEFAULT_MAX_DROP
    workspace: int | None = None
    version_compatible: bool = False
    hardware: str = "none"
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not DEFAULT_OPSET <= self.opset <= MAX_OPSET:
            raise ExportError(f"opset must be a version from {DEFAULT_OPSET} to {MAX_OPSET}, got {self.opset}.")
        unknown = set(self.precisions) - set(PRECISIONS)
        if unknown or not self.precisions:
            raise ExportError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {', '.join(sorted(unknown)) or 'none'}."
            )
        if self.input not in INPUT_FORMS:
            raise ExportError(f"input must be one of {', '.join(INPUT_FORMS)}, got {self.input!r}.")
        if self.auto_fp32 and not self.verify:
            raise ExportError("auto_fp32 keeps fp32 what a comparison shows to need it: give it without --no-verify.")
        if not set(self.tensorrt8) <= set(get_args(ParserVersion)):
            raise ExportError(f"tensorrt8 must be 8.5 or 8.6, got {', '.join(self.tensorrt8)}.")
        if self.tensorrt8 and "fp32" not in self.precisions:
            raise ExportError("graphs for TensorRT 8 are fp32, and its builder chooses fp16: add --precision fp32.")
        if not 0 <= self.max_drop <= 100:  # true for NaN too
            raise ExportError(f"max_drop must be a number of points of top-1 from 0 to 100, got {self.max_drop}.")
        _check_range("batch", self.batch_range)
        if self.batch_range[2] > MAX_BATCH:
            raise BudgetError(f"a batch range must end at {MAX_BATCH} images or before, got {self.batch_range[2]}.")
        if self.budget_range is not None:
            _check_range("budget", self.budget_range)

    @property
    def with_plugin_graphs(self) -> bool:
        """Whether graphs with the node TokenSelect are written."""
        return self.plugin_graphs or self.strip_functions or (self.trt and self.plugin)

    def budgets(self, patches: int) -> list[int]:
        """The fixed budgets in tokens, without repeats. Raises BudgetError."""
        return sorted({tokens_from_keep(keep, patches) for keep in self.keeps})

    def budget_profile(self, patches: int, default: int, limits: Range | None = None) -> Range:
        """The budget range of engines. ``limits``: what the graph takes, where that is not 1..patches.

        Raises BudgetError when it does not lie within these.
        """
        low, middle, high = limits or (1, default, patches)
        profile = self.budget_range or (low, middle, high)
        if not low <= profile[0] <= profile[2] <= high:
            what = "this model's patch tokens" if limits is None else "the budgets of this model's reducer"
            raise BudgetError(
                f"a budget range must be {low} <= min <= opt <= max <= {high}, {what}; got "
                f"{':'.join(map(str, profile))}."
            )
        return profile


def range_from_text(text: str) -> Range:
    """Read ``min:opt:max``; one number is all three. Raises BudgetError."""
    if not re.fullmatch(r"[0-9]{1,18}(:[0-9]{1,18}:[0-9]{1,18})?", text.strip()):
        raise BudgetError(f"a range must be min:opt:max or one number, got {text!r:.100}.")
    numbers = [int(part) for part in text.split(":")]
    low, best, high = numbers if len(numbers) == 3 else numbers * 3
    return low, best, high


def _check_range(what: str, value: Sequence[int]) -> Range:
    low, best, high = value
    if not 1 <= low <= best <= high:
        raise BudgetError(f"a {what} range must be 1 <= min <= opt <= max, got {low}:{best}:{high}.")
    return low, best, high
