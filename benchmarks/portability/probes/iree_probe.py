import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import iree.runtime
import numpy as np
import onnx
from protocol import run_cases


@cache
def module(model):
    """One module for every shape that is free in the graph."""
    folder = Path(tempfile.mkdtemp())
    tools = Path(sys.executable).parent
    run([tools / "iree-import-onnx", model, "-o", folder / "model.mlir"])
    # IREE sorts on the stack: 49 KB for 196 tokens, more than its default allows.
    target = [
        "--iree-llvmcpu-stack-allocation-limit=262144",
        "--iree-hal-target-device=local",
        "--iree-hal-local-target-device-backends=llvm-cpu",
    ]
    run(
        [
            tools / "iree-compile",
            folder / "model.mlir",
            "-o",
            folder / "m.vmfb",
            *target,
            "--iree-llvmcpu-target-cpu=host",
        ]
    )
    config = iree.runtime.Config("local-task")
    loaded = iree.runtime.load_vm_module(iree.runtime.VmModule.mmap(config.vm_instance, str(folder / "m.vmfb")), config)
    graph = onnx.load(model, load_external_data=False).graph
    return loaded[graph.name], [i.name for i in graph.input], [o.name for o in graph.output]


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-300:]))


def prepare(model, case):
    function, inputs, outputs = module(model)

    def logits(feeds):
        answers = function(*[feeds[name] for name in inputs])
        answers = answers if isinstance(answers, list | tuple) else [answers]
        return np.asarray(answers[outputs.index("logits")].to_host())

    return logits


run_cases(prepare)
