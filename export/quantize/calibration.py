"""Ranges of activations: ONNX Runtime's calibrator runs the fp32 graph on images, at every budget.

One range per tensor holds for all budgets and forms: the largest absolute value over all of them. Ranges by percentile
made no measurable difference; ranges without the smallest budgets are too narrow for these (docs/int8.md).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import ExportError
from tokfilter.export.onnx_file import SINGLE_FILE_BYTES, cpu_session, save_graph, weight_bytes
from tokfilter.export.quantize.images import ImagePool
from tokfilter.export.selection import plain_graph

__all__ = ["largest_activations"]

_BATCH = 10


def largest_activations(
    graph: ir.Model,
    tensors: Sequence[str],
    pool: ImagePool,
    preprocessing: Preprocessing,
    budgets: Sequence[int],
    scratch: Path,
    progress: Callable[[str], None],
) -> dict[str, float]:
    """Largest absolute value of each tensor of the slots form on all images at all budgets.

    scratch: a folder for the calibrator's files
    Raises ExportError.
    """
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    class Calibrater(MinMaxCalibrater):  # type: ignore[misc]  # ONNX Runtime has no types
        """Of the chosen tensors only; the calibrator's own choice is by type of node."""

        def select_tensors_to_calibrate(self, model: Any) -> Any:
            return set(tensors), {}

        def create_inference_session(self) -> None:
            """In ours, which is quiet and lets ONNX Runtime optimise the graph."""
            self.infer_session = cpu_session(Path(self.augmented_model_path), "fp32")

    def feeds() -> Iterator[Mapping[str, Any]]:
        for number, images in enumerate(pool.batches(preprocessing, _BATCH)):
            progress(f"calibrating on image {number * _BATCH + 1} of {len(pool)} at {len(budgets)} budgets")
            for k in budgets:
                yield {"images": images, "slots": np.zeros(k, np.int32)}

    save_graph(plain_graph(graph), scratch / "plain.onnx")
    calibrater = Calibrater(
        scratch / "plain.onnx",
        augmented_model_path=str(scratch / "augmented.onnx"),
        symmetric=True,
        use_external_data_format=weight_bytes(graph) > SINGLE_FILE_BYTES,
    )
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(_Reader(feeds()))
    ranges = {name: float(np.abs(found.range_value[1]).max()) for name, found in calibrater.compute_data().items()}
    broken = [name for name, value in ranges.items() if not np.isfinite(value)]
    if broken:
        raise ExportError(
            f"{broken[0]} is NaN or infinite on calibration images: the model is damaged. Train it again."
        )
    return ranges


class _Reader:
    """ONNX Runtime's CalibrationDataReader: it needs this one method."""

    def __init__(self, feeds: Iterator[Mapping[str, Any]]) -> None:
        self.feeds = feeds

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self.feeds, None)
