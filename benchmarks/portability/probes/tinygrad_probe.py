from protocol import run_cases
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner


def prepare(model, case):
    runner = OnnxRunner(model)
    return lambda feeds: runner({name: Tensor(value) for name, value in feeds.items()})["logits"].numpy()


run_cases(prepare)
