import numpy as np
import onnx
import tvm
from protocol import run_cases
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx


def prepare(model, case):
    """TVM plans a graph for the shapes that it is given."""
    graph = onnx.load(model)
    shapes = {"images": case["shape"]}
    if case["tokens"] is not None:
        shapes["slots"] = [case["tokens"]]
    module = from_onnx(graph, shape_dict=shapes, keep_params_in_input=False)
    module = relax.get_pipeline("zero")(module)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    names = [item.name for item in graph.graph.input]
    outputs = [item.name for item in graph.graph.output]

    def logits(feeds):
        answers = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(feeds[name])) for name in names])
        answer = answers[outputs.index("logits")] if len(outputs) > 1 else answers
        return answer.numpy()

    return logits


run_cases(prepare)
