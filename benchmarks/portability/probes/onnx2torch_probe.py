from functools import cache

import onnx
import torch
from onnx2torch import convert
from protocol import run_cases


@cache
def module(model):
    graph = onnx.load(model)
    names = [item.name for item in graph.graph.input]
    outputs = [item.name for item in graph.graph.output]
    return convert(graph).eval(), names, outputs


def prepare(model, case):
    network, names, outputs = module(model)

    def logits(feeds):
        with torch.no_grad():
            answers = network(*[torch.from_numpy(feeds[name]) for name in names])
        return (answers[outputs.index("logits")] if len(outputs) > 1 else answers).numpy()

    return logits


run_cases(prepare)
