"""What every probe does: read a list of cases, run each, write its logits and one line of JSON.

A probe runs in the environment of its runtime, where neither tokfilter nor torch need be installed. It gets the model
file, and cases as JSON: batch, tokens (null where the graph takes no ``slots``), images (float32, [B, 3, H, W], raw),
output (where the logits go, float32, raw). Shapes are in the case, so that a runtime that wants them fixed has them.
"""

import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Case = dict[str, Any]
Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def run_cases(prepare: Callable[[str, Case], Run]) -> None:
    """Run the cases of ``sys.argv``: MODEL CASES.

    prepare: reads the model for a case and returns the function that maps inputs by name to logits [B, classes]
    """
    model, cases = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    for number, case in enumerate(cases):
        start = time.perf_counter()
        try:
            logits = np.asarray(prepare(model, case)(feeds_of(case)), np.float32)
            logits.tofile(case["output"])
            answer = {"case": number, "shape": list(logits.shape)}
        except BaseException as error:
            answer = {"case": number, "error": sentence(error)}
        answer["seconds"] = round(time.perf_counter() - start, 2)
        print("PROBE " + json.dumps(answer), flush=True)


def feeds_of(case: Case) -> dict[str, np.ndarray]:
    """The inputs of a case by name."""
    feeds = {"images": np.fromfile(case["images"], np.float32).reshape(case["shape"])}
    if case["tokens"] is not None:
        feeds["slots"] = np.zeros(case["tokens"], np.int32)
    return feeds


def convert(function: Callable[[str, str], None]) -> None:
    """For tools that write another ONNX file: MODEL OUTPUT. One line of JSON as above, without a case."""
    model, output = sys.argv[1:3]
    start = time.perf_counter()
    try:
        function(model, output)
        answer: dict[str, Any] = {"file": output}
    except BaseException as error:
        answer = {"error": sentence(error)}
    answer["seconds"] = round(time.perf_counter() - start, 2)
    print("PROBE " + json.dumps(answer), flush=True)


def sentence(error: BaseException) -> str:
    """The error in one line: without backtrace and folders, which differ from machine to machine."""
    text = str(error).partition("Stack backtrace")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = "; ".join(lines[:6]) or f"at {Path(place.filename).name}:{place.lineno}"
    return f"{type(error).__name__}: {re.sub(r'(/[^/ ]+)+/', '', words)}"[:400]
