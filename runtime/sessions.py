"""Open a session on an export directory: ``with open_session("out/") as session: session.run(images, keep=0.5)``."""

from dataclasses import dataclass
from pathlib import Path

from tokfilter.artifacts.manifest import Runtime
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import ModelFile, Role, find_model_file
from tokfilter.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.runtime.session import CheckedSession
from tokfilter.runtime.tensorrt_session import TensorRTSession

__all__ = ["SessionOptions", "open_session", "session_from_model_file"]


@dataclass(frozen=True)
class SessionOptions:
    """How a model file is run, the same for full and filtered.

    runtime: onnx, tensorrt or tensorrt-rtx
    precision: fp32, fp16 or bf16, as exported
    provider: ONNX Runtime's execution provider (cpu, cuda, tensorrt, tensorrt-rtx)
    threads, spinning, huge_pages: ONNX Runtime only, see ``OnnxRuntimeSession``
    cuda_graph: replay captured CUDA graphs, on a GPU only
    device: number of the GPU, as CUDA counts those that are visible
    backend: TensorRT only, see ``TensorRTSession``
    compiled: PyTorch only, see ``TorchSession``
    """

    runtime: Runtime = "onnx"
    precision: str = "fp32"
    provider: str = "cpu"
    threads: int | None = None
    spinning: bool = True
    huge_pages: bool = True
    cuda_graph: bool = False
    device: int = 0
    backend: str | None = None
    compiled: bool = False


def open_session(
    directory: str | Path, role: Role = "filtered", options: SessionOptions | None = None, tokens: int | None = None
) -> CheckedSession:
    """The session for a file of an export directory; nothing is loaded before ``with``.

    tokens: prefer a graph made for exactly this budget to one whose budget is chosen at run time
    Raises DataError, EngineError.
    """
    options = options or SessionOptions()
    return session_from_model_file(
        find_model_file(directory, role, options.runtime, options.precision, tokens, options.provider), options
    )


def session_from_model_file(chosen: ModelFile, options: SessionOptions) -> CheckedSession:
    """The session for one file. Raises EngineError."""
    if options.runtime == "onnx":
        return _onnxruntime_session(chosen, options)
    if options.runtime in ("tensorrt", "tensorrt-rtx"):
        return TensorRTSession(chosen, options.cuda_graph, options.backend, options.device)
    raise EngineError(f"runtime must be onnx, tensorrt or tensorrt-rtx, got {options.runtime!r}.")


def _onnxruntime_session(chosen: ModelFile, options: SessionOptions) -> CheckedSession:
    common = (chosen, options.provider, options.threads, options.spinning, options.huge_pages)
    if options.provider == "cuda":
        return OnnxRuntimeCudaSession(*common, device=options.device, cuda_graph=options.cuda_graph)
    if options.cuda_graph:
        raise EngineError(
            f"CUDA graphs of ONNX Runtime need --provider cuda, got {options.provider}: choose it, or leave out "
            "--cuda-graph."
        )
    on_gpu = options.provider in ("tensorrt", "tensorrt-rtx")
    return OnnxRuntimeSession(*common, {"device_id": str(options.device)} if on_gpu else {})
