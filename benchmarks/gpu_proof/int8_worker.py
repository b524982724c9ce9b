"""int8 graphs of one model, from its model.pt: ``int8_worker SETTINGS NAME VERSION-OF-TENSORRT``.

Calibrated on random images, as the weights are random too: the gate on top-1 would say nothing, and is left out.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.pixels import pixels_from_normalised
from tokfilter.benchmarks.gpu_proof.engine_graphs import engine_graph, int8_graphs_of
from tokfilter.benchmarks.gpu_proof.prepare import bundle_of
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.quantize.images import LEAST_CALIBRATION
from tokfilter.vit.bundle import load_bundle

__all__ = ["export_int8", "write_random_images"]

_OTHERS: Final = 8
"""Images beside those of the calibration, which the export asks for."""


def export_int8(settings: Settings, model: ModelSpec, version: str) -> None:
    """Graphs with Q/DQ nodes, full and filtered, and their forms for this TensorRT. Raises TokfilterError."""
    bundle = bundle_of(settings, model.name)
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        write_random_images(Path(scratch), load_bundle(bundle).preprocessing, LEAST_CALIBRATION + _OTHERS)
        options = ExportOptions(precisions=("int8",), calibrate=Path(scratch), plugin_graphs=True, verify=False)
        export_bundle(bundle, int8_graphs_of(settings, model.name), options)
    for plugin in (True, False):
        engine_graph(settings, version, model.name, "filtered", "int8", plugin)
    engine_graph(settings, version, model.name, "full", "int8", plugin=False)


def write_random_images(folder: Path, preprocessing: Preprocessing, count: int) -> None:
    """PNG files of normal random numbers, seed 1, as the golden images are.

    They have the size to which the transform resizes, so that it only crops them, and their spread stays.
    """
    _, height, width = preprocessing.input_size
    sides = [math.floor(side / preprocessing.crop_pct) for side in (height, width)]
    drawn = np.random.default_rng(1)
    for number in range(count):
        pixels = pixels_from_normalised(
            drawn.standard_normal((3, *sides), dtype=np.float32), preprocessing.mean, preprocessing.std
        )
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(folder / f"{number:03}.png", compress_level=1)


def main(words: Sequence[str]) -> None:
    """Export the model of the command line."""
    settings = Settings.from_text(words[0])
    export_int8(settings, settings.model(words[1]), words[2])


if __name__ == "__main__":
    main(sys.argv[1:])
