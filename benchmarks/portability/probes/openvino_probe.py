from functools import cache

import openvino
from protocol import run_cases


@cache
def compiled(model):
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


run_cases(lambda model, case: lambda feeds: compiled(model)(feeds)["logits"])
