from onnxruntime.quantization import quantize_dynamic
from protocol import convert

convert(lambda model, output: quantize_dynamic(model, output))
