"""ONNX Runtime as a Python-based backend of Triton: what NVIDIA's own backend does with a configuration, in few lines.

It stands in where tritonserver is at hand without its container, which brings the real backend.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The name that Triton looks for."""

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
        """One run for all requests that Triton has joined. Arrays go by DLPack: this Triton's own way is numpy 1's."""
        given = [[np.from_dlpack(triton.get_input_tensor_by_name(r, name)) for name in self.inputs] for r in requests]
        joined = (np.concatenate(arrays) for arrays in zip(*given, strict=True))
        found = self.session.run(self.outputs, dict(zip(self.inputs, joined, strict=True)))
        ends = np.cumsum([len(images) for images, *_ in given])[:-1]
        return [self._response(part) for part in zip(*(np.split(array, ends) for array in found), strict=True)]

    def _response(self, arrays):
        named = zip(self.outputs, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor.from_dlpack(name, array.copy()) for name, array in named])
