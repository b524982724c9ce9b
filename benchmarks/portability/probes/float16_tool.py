import onnx
from onnxruntime.transformers import float16
from protocol import convert


def halve(model, output):
    onnx.save(float16.convert_float_to_float16(onnx.load(model), keep_io_types=True), output)


convert(halve)
