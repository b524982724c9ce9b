import onnx
import onnxsim
from protocol import convert


def simplify(model, output):
    graph, equal = onnxsim.simplify(onnx.load(model))
    if not equal:
        raise RuntimeError("onnxsim says that its graph computes something else")
    onnx.save(graph, output)


convert(simplify)
