import onnxslim
from protocol import convert

convert(lambda model, output: onnxslim.slim(model, output))
