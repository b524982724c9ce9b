"""As ONNX Runtime's documentation has it: pre-processing, then calibration at every budget.

Products with weights are quantised. Those of the filter are not: with rounded scores other tokens are kept. Those of
attention are not either: MatMulConstBOnly leaves their inputs in float, but not their outputs, and of these ONNX
Runtime makes QLinearSoftmax, which loses much with few tokens (docs/onnx-files.md).
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from protocol import convert


class Images(CalibrationDataReader):
    def __init__(self, model, images):
        graph = onnx.load(model, load_external_data=False).graph
        names = [item.name for item in graph.input]
        slots = [{"slots": np.zeros(k, np.int32)} for k in (49, 98, 196)] if "slots" in names else [{}]
        self.feeds = iter([{"images": image[None]} | budget for image in images for budget in slots])

    def get_next(self):
        return next(self.feeds, None)


def quantize(model, output):
    prepared = str(Path(output).with_suffix(".prepared.onnx"))
    quant_pre_process(model, prepared, skip_optimization=True)  # keeps the names of nodes
    images = np.fromfile(sys.argv[3], np.float32).reshape(-1, 3, 224, 224)
    graph = onnx.load(prepared, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    names = [node.name for node in products if not node.name.startswith("patch_drop")]
    settings = {"nodes_to_quantize": names, "extra_options": {"MatMulConstBOnly": True}}
    quantize_static(
        prepared, output, Images(prepared, images), per_channel=True, op_types_to_quantize=["MatMul"], **settings
    )


convert(quantize)
