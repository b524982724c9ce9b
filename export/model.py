"""``tokfilter.export_model``: a model in memory to ONNX graphs, TensorRT engines and a manifest."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.manifest import Manifest
from tokfilter.artifacts.pixels import InputForm
from tokfilter.export.options import DEFAULT_BATCH, DEFAULT_MAX_DROP, ExportOptions, Precision
from tokfilter.export.pipeline import export_bundle
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.model import FilteredViT, check_patched

__all__ = ["export_model"]


def export_model(
    model: FilteredViT,
    directory: str | Path,
    *,
    keep: Sequence[Keep] = (),
    precision: Sequence[Precision] = ("fp32",),
    input: InputForm = "float",
    trt: bool = False,
    rtx: bool = False,
    batch: tuple[int, int, int] = DEFAULT_BATCH,
    verify: bool = True,
    auto_fp32: bool = False,
    calibrate: str | Path | None = None,
    check_images: str | Path | None = None,
    max_drop: float = DEFAULT_MAX_DROP,
    examples: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    architecture: tuple[str, Mapping[str, Any]] | None = None,
) -> Manifest:
    """Write a patched model as graphs and engines; every graph is compared with torch before it is kept.

    An untrained filter is exported with a warning: good for measuring time, not for accuracy.

    keep: budgets that get a graph of their own; ``model.onnx`` takes any budget
    precision: fp32, fp16, bf16, int8 and fp8; each gives a set of graphs
    input: "float" for normalised images; "uint8" or "uint8-nhwc" for pixels, which the graphs normalise
    trt, rtx: also build TensorRT or TensorRT-RTX engines, for batches (smallest, usual, largest) of ``batch``
    auto_fp32: keep layers in fp32 for which fp16 or bf16 is too narrow
    calibrate, check_images: folders of images for int8 and fp8: to find ranges, and to compare top-1 with fp32's
    max_drop: points of top-1 that int8 and fp8 may lose at any budget
    examples: [G, 3, H, W], normalised images for the golden tensors; default: those of training, else random ones
    class_names, architecture: as in ``save_bundle``
    Raises UnsupportedModelError, ExportError, BudgetError, VerificationError (nothing is written),
    MissingDependencyError and EngineError (the graphs are written).
    """
    check_patched(model)
    options = ExportOptions(
        keeps=tuple(keep),
        precisions=tuple(precision),
        input=input,
        trt=trt,
        rtx=rtx,
        batch_range=batch,
        verify=verify,
        auto_fp32=auto_fp32,
        calibrate=None if calibrate is None else Path(calibrate),
        check_images=None if check_images is None else Path(check_images),
        max_drop=max_drop,
    )
    if not model.drop.trained:
        model.drop.state.warned = True
        warnings.warn(
            "exporting a model whose token filter is untrained: its speed is that of a trained one, but the dropped "
            "tokens are arbitrary. Train it with tokfilter.fit first.",
            UserWarning,
            stacklevel=2,
        )
    with TemporaryDirectory(prefix="tokfilter-export-") as folder:
        path = Path(folder) / "model.pt"
        save_bundle(model, path, architecture=architecture, examples=examples, class_names=class_names)
        manifest = export_bundle(path, directory, options)
    if any(entry.verified is False for entry in manifest.files):
        warnings.warn(
            f"the engines in {directory} were not compared with torch's outputs: `tokfilter verify {directory} "
            "--runtime tensorrt` (or tensorrt-rtx) does so.",
            UserWarning,
            stacklevel=2,
        )
    return manifest
