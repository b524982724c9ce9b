"""What TensorRT-RTX prints on a CPU: refused graphs, profiles, targets and plans. Run as ``tensorrt_probes.py`` is.

It has the parser, builder and runtime of TensorRT 11's code base, and needs no driver to build, or to refuse a plan.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorrt_probes
from onnx import parser as onnx_text
from tensorrt_probes import Given, created_by, logger, main, say

HEADER = '<ir_version: 10, opset_import: ["": 18, "acme": 1, "tokfilter": 1]>\n'
RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


def graph(text: str) -> bytes:
    return bytes(onnx_text.parse_model(HEADER + text).SerializeToString())


class Network:
    """A builder, its network and configuration."""

    def __init__(self, trt: Any):
        self.trt, self.log = trt, logger(trt)
        self.builder = trt.Builder(self.log)
        self.definition = self.builder.create_network(0)
        self.config = self.builder.create_builder_config()

    def parse(self, model: "bytes | Path") -> bool:
        parser = self.trt.OnnxParser(self.definition, self.log)
        parsed = parser.parse_from_file(str(model)) if isinstance(model, Path) else parser.parse(model)
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            say(parser=[error.code().name, error.desc(), error.node_operator(), error.node_name()])
        return bool(parsed)

    def profile(self, low: Any, best: Any, high: Any) -> int:
        profile = self.builder.create_optimization_profile()
        profile.set_shape("x", low, best, high)
        return int(self.config.add_optimization_profile(profile))

    def build(self) -> Any:
        return self.builder.build_serialized_network(self.definition, self.config)


def parse(trt: Any, given: Given) -> Any:
    """A graph given as text, which the parser refuses."""
    return Network(trt).parse(graph(given["arguments"][0]))


def parse_bytes(trt: Any, given: Given) -> Any:
    return Network(trt).parse(b"\x08\x0anot a graph")


def parse_file(trt: Any, given: Given) -> Any:
    """A file whose weights lie in model.onnx.data, of which only so many bytes are there (none: no file)."""
    path, size = Path(given["folder"]) / "model.onnx", given["arguments"][0]
    model = onnx_text.parse_model(HEADER + "g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w"))
    path.with_name("model.onnx.data").unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    path.with_name("model.onnx.data").unlink()
    if size:
        path.with_name("model.onnx.data").write_bytes(bytes(size))
    return Network(trt).parse(path)


def build(trt: Any, given: Given) -> Any:
    """A graph with a profile, or without one; is there a plan?"""
    text, shapes = given["arguments"]
    network = Network(trt)
    network.parse(graph(text))
    if shapes:
        say(profile=network.profile(*shapes))
    return network.build() is not None


def build_for(trt: Any, given: Given) -> Any:
    """For a compute capability by its name, of so many that are announced."""
    name, number = given["arguments"]
    network = Network(trt)
    network.parse(graph(RELU))
    network.profile((1, 4), (2, 4), (3, 4))
    network.config.num_compute_capabilities = number
    say(taken=network.config.set_compute_capability(trt.ComputeCapability.__members__[name], 0))
    return network.build() is not None


def capabilities(trt: Any, given: Given) -> Any:
    return sorted(trt.ComputeCapability.__members__)


def plan_of(trt: Any) -> bytes:
    network = Network(trt)
    network.parse(graph(RELU))
    network.profile((1, 4), (2, 4), (3, 4))
    network.config.num_compute_capabilities = 1
    network.config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return bytes(network.build())


def write_plan(trt: Any, given: Given) -> Any:
    Path(given["plan"]).write_bytes(plan_of(trt))
    return True


def deserialize(trt: Any, given: Given) -> Any:
    """A plan that is altered: its first so many bytes, with one byte changed."""
    kind, number = given["arguments"]
    if kind == "garbage":
        plan = b"no plan" * number
    else:
        plan = plan_of(trt)
        plan = plan[:number] if kind == "first" else plan
        if kind == "changed":
            plan = plan[:number] + bytes([plan[number] ^ 1]) + plan[number + 1 :]
    runtime = trt.Runtime(logger(trt))
    return runtime.deserialize_cuda_engine(plan) is not None


def load_library(trt: Any, given: Given) -> Any:
    """The registry of a runtime that stands, so with a log; and the creator that it does not have."""
    runtime = trt.Runtime(logger(trt))
    plugins = runtime.get_plugin_registry()
    loaded = plugins.load_library(given["library"]) is not None
    return {"loaded": loaded, "creator": plugins.get_creator("TokenSelect", "1", "tokfilter") is not None}


def creation(trt: Any, given: Given) -> Any:
    """tokfilter's plugin with attributes that it refuses: what it writes to the real log."""
    runtime = trt.Runtime(logger(trt))
    plugins = runtime.get_plugin_registry()
    plugins.load_library(given["plugin"])
    creator = plugins.get_creator("TokenSelect", "1", "tokfilter")
    return created_by(trt, creator, given["arguments"][0])


if __name__ == "__main__":
    main({**vars(tensorrt_probes), **globals()})
