"""A graph in ONNX Runtime as most users run it: a default InferenceSession; images in, logits or masks out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokfilter.errors import EngineError
from tokfilter.runtime.onnxruntime_session import available_provider, imported_onnxruntime, preload_cuda
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Result, TensorSpec

__all__ = ["NaiveOnnxSession"]

_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass
class NaiveOnnxSession(CheckedSession):
    """One graph with ONNX Runtime's defaults: no session options, no fixed buffers, no CUDA graph.

    graph: with one input of images, and logits or masks as its first output
    patches: patch tokens of the model, all of which are kept
    provider, device: cpu, or cuda and the number of the GPU
    threads: intra-op threads; None leaves the number to ONNX Runtime
    """

    graph: Path
    patches: int
    provider: str = "cpu"
    device: int = 0
    threads: int | None = None
    _session: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.thread_safe = True

    def _open(self) -> Callable[[], None]:
        onnxruntime = imported_onnxruntime()
        name = available_provider(onnxruntime, self.provider)
        if self.provider != "cpu":
            preload_cuda(onnxruntime)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:  # as many as the engines that it is compared with
            options.intra_op_num_threads = self.threads
        chosen = {} if self.provider == "cpu" else {"device_id": str(self.device)}
        try:
            self._session = onnxruntime.InferenceSession(str(self.graph), options, providers=[(name, chosen)])
        except Exception as error:  # ONNX Runtime raises many types; each means that this file does not load
            raise EngineError(
                f"ONNX Runtime cannot load {self.graph.name}: {str(error).splitlines()[0][:300]}"
            ) from error
        if self._session.get_providers()[0] != name:
            raise EngineError(f"ONNX Runtime fell back from {name}: see `tokfilter doctor`.")
        (images,), logits = self._session.get_inputs(), self._session.get_outputs()[0]
        shape = tuple(size if isinstance(size, int) else "batch" for size in images.shape)
        self.inputs = (TensorSpec(images.name, shape, np.dtype(_TYPES[images.type])),)
        self.outputs = (TensorSpec(logits.name, ("batch", *logits.shape[1:]), np.dtype(np.float32)),)
        self._budgets = Budgets(self.patches, self.patches, self.patches, self.patches)

        def release() -> None:
            self._session = None

        return release

    def _execute(self, images: Array, k: int) -> Result:
        try:
            logits: Array = self._session.run(None, {self.inputs[0].name: images})[0]
        except Exception as error:  # see _open
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return Result(logits.astype(np.float32, copy=False))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
