import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import MNN
import numpy as np
from protocol import run_cases


@cache
def module(model, names):
    file = Path(tempfile.mkdtemp()) / "model.mnn"
    command = [Path(sys.executable).parent / "mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", file]
    done = subprocess.run([*map(str, command), "--bizCode", "tokfilter"], capture_output=True, text=True)
    if not file.exists():
        raise RuntimeError((done.stdout + done.stderr)[-300:])
    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": 2},))
    return MNN.nn.load_module_from_file(str(file), list(names), ["logits"], runtime_manager=manager)


def prepare(model, case):
    names = ("images", "slots") if case["tokens"] is not None else ("images",)
    network = module(model, names)

    def logits(feeds):
        values = []
        for name in names:
            kind = MNN.expr.float if name == "images" else MNN.expr.int
            values.append(
                MNN.expr.const(np.ascontiguousarray(feeds[name]), list(feeds[name].shape), MNN.expr.NCHW, kind)
            )
        answers = network.forward(values)
        answer = answers[0] if isinstance(answers, list | tuple) else answers
        return np.array(MNN.expr.convert(answer, MNN.expr.NCHW).read())

    return logits


run_cases(prepare)
