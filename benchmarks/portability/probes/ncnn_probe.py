import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ncnn
import numpy as np
from protocol import run_cases


def prepare(model, case):
    """pnnx plans a graph for the shapes that it is given; ncnn has no batch: images go through one by one."""
    folder = Path(tempfile.mkdtemp())
    shutil.copy(model, folder / "m.onnx")
    shapes = "[" + ",".join(map(str, [1, *case["shape"][1:]])) + "]f32"
    if case["tokens"] is not None:
        shapes += f",[{case['tokens']}]i32"
    done = subprocess.run(
        [str(Path(sys.executable).parent / "pnnx"), "m.onnx", f"inputshape={shapes}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if not (folder / "m.ncnn.param").exists():
        raise RuntimeError((done.stderr + done.stdout).strip()[-300:])
    network = ncnn.Net()
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(network.opt, f"use_{name}", False)
    if network.load_param(str(folder / "m.ncnn.param")) or network.load_model(str(folder / "m.ncnn.bin")):
        kinds = {line.split()[0] for line in (folder / "m.ncnn.param").read_text().splitlines()[2:]}
        foreign = sorted(kind for kind in kinds if "." in kind or "_" in kind or kind.islower())
        raise RuntimeError(f"ncnn cannot load what pnnx wrote; it has the layers {', '.join(foreign) or kinds}")

    def logits(feeds):
        rows = []
        for image in feeds["images"]:
            with network.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)))
                if "slots" in feeds:
                    extractor.input("in1", ncnn.Mat(feeds["slots"]))
                code, answer = extractor.extract("out0")
                if code:
                    raise RuntimeError(f"ncnn ended with code {code}")
                rows.append(np.array(answer).reshape(-1))
        return np.stack(rows)

    return logits


run_cases(prepare)
