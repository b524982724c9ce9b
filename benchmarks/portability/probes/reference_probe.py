from functools import cache

from onnx.reference import ReferenceEvaluator
from protocol import run_cases


@cache
def evaluator(model):
    return ReferenceEvaluator(model)


run_cases(lambda model, case: lambda feeds: evaluator(model).run(["logits"], feeds)[0])
