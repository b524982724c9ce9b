"""As ONNX Runtime's documentation has it: pre-processing, then calibration; the linear layers are quantised."""

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
        feeds = [{"images": image[None]} for image in images]
        for feed in feeds:
            if "slots" in names:
                feed["slots"] = np.zeros(98, np.int32)
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def quantize(model, output):
    prepared = str(Path(output).with_suffix(".prepared.onnx"))
    quant_pre_process(model, prepared)
    images = np.fromfile(sys.argv[3], np.float32).reshape(-1, 3, 224, 224)
    quantize_static(
        prepared, output, Images(prepared, images), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
    )


convert(quantize)
