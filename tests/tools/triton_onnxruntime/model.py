"""Fake of Triton's ONNX Runtime backend, as a Python-based backend, for a tritonserver without NVIDIA's container.

Confirmed by: tritonserver 2.51 (CPU) served the exported repository with this backend. NVIDIA's own onnxruntime
backend was not run.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class that Triton loads."""

    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / config["default_model_filename"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests):
        """Run all requests of a batch together. Arrays pass through DLPack: Triton's own conversion needs numpy 1."""
        given = [[np.from_dlpack(triton.get_input_tensor_by_name(r, name)) for name in self.inputs] for r in requests]
        joined = (np.concatenate(arrays) for arrays in zip(*given, strict=True))
        found = self.session.run(self.outputs, dict(zip(self.inputs, joined, strict=True)))
        ends = np.cumsum([len(images) for images, *_ in given])[:-1]
        return [self._response(part) for part in zip(*(np.split(array, ends) for array in found), strict=True)]

    def _response(self, arrays):
        named = zip(self.outputs, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor.from_dlpack(name, array.copy()) for name, array in named])
