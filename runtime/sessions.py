"""Open a session: ``with open_session("out/") as session: session.run(images, keep=0.5)``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokfilter.artifacts.extras import install_hint
from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.manifest import Manifest, Runtime
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.model_files import ModelFile, Role, find_model_file
from tokfilter.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession
from tokfilter.runtime.openvino_engine import Hint, OpenVinoOptions
from tokfilter.runtime.openvino_session import OpenVinoSession
from tokfilter.runtime.session import CheckedSession
from tokfilter.runtime.tensorrt_session import TensorRTSession

if TYPE_CHECKING:
    from tokfilter.runtime.torch_session import TorchSession
    from tokfilter.vit.model import FilteredViT

__all__ = ["SessionOptions", "open_session", "session_from_model_file", "torch_session"]


@dataclass(frozen=True)
class SessionOptions:
    """How a model file is run, the same for full and filtered.

    runtime: onnx, openvino, tensorrt, tensorrt-rtx or torch
    precision: fp32, fp16, bf16 or int8, as exported. OpenVINO computes the fp32 file in fp32, fp16 or bf16, and the
        int8 file with its other layers in fp32 (int8) or bf16 (int8-bf16)
    provider: ONNX Runtime's execution provider (cpu, cuda, tensorrt, tensorrt-rtx); cpu or cuda for PyTorch
    threads: of an engine on the CPU; None leaves the number to the engine
    spinning, huge_pages: ONNX Runtime only, see ``OnnxRuntimeSession``
    cuda_graph: replay captured CUDA graphs, on a GPU only
    device: number of the GPU, as CUDA counts those that are visible
    backend: TensorRT only, see ``TensorRTSession``
    torch_compile: PyTorch only, see ``TorchSession``
    hint: OpenVINO only, latency or throughput
    streams: OpenVINO only, requests that run at the same time; None leaves the number to the hint
    fixed_shapes: OpenVINO only, compile for each batch and budget that is run: faster, the first call of each slower
    model_cache: OpenVINO only, keep compiled models in the user's cache folder
    bundle: PyTorch only, model.pt of an export directory; None looks for it in the directory and beside it
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
    torch_compile: bool | str = False
    bundle: str | None = None
    hint: Hint = "latency"
    streams: int | None = None
    fixed_shapes: bool = False
    model_cache: bool = True


def open_session(
    source: "str | Path | FilteredViT",
    role: Role = "filtered",
    options: SessionOptions | None = None,
    tokens: int | None = None,
) -> CheckedSession:
    """The session for a model; nothing is loaded before ``with``.

    source: an export directory; or a bundle (model.pt) or a patched model, which PyTorch runs
    tokens: prefer a graph made for exactly this budget to one whose budget is chosen at run time
    Raises DataError, EngineError, MissingDependencyError.
    """
    options = options or SessionOptions()
    if not isinstance(source, str | Path):
        return torch_session(source, role, options)
    path = Path(source)
    if path.is_file() or path.suffix == ".pt":
        return torch_session(existing_file(path, "a bundle (model.pt)"), role, options)
    chosen = find_model_file(path, role, options.runtime, options.precision, tokens, options.provider, options.bundle)
    return session_from_model_file(chosen, options)


def session_from_model_file(chosen: ModelFile, options: SessionOptions) -> CheckedSession:
    """The session for one file. Raises EngineError, MissingDependencyError."""
    if options.runtime == "onnx":
        return _onnxruntime_session(chosen, options)
    if options.runtime == "openvino":
        return _openvino_session(chosen, options)
    if options.runtime in ("tensorrt", "tensorrt-rtx"):
        return TensorRTSession(chosen, options.cuda_graph, options.backend, options.device)
    if options.runtime == "torch" and chosen.bundle is not None:
        role: Role = "full" if chosen.entry.role == "full" else "filtered"
        return torch_session(chosen.bundle, role, options, chosen.manifest)
    raise EngineError(f"runtime must be onnx, openvino, tensorrt, tensorrt-rtx or torch, got {options.runtime!r}.")


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
    if options.precision == "fp8" and not on_gpu:
        raise EngineError(
            "fp8 is for TensorRT 10 or later and TensorRT-RTX: ONNX Runtime computes its products in fp32, with "
            "roundings in between, slower than fp32 alone. Choose --runtime tensorrt or tensorrt-rtx, or int8."
        )
    return OnnxRuntimeSession(*common, {"device_id": str(options.device)} if on_gpu else {})


def _openvino_session(chosen: ModelFile, options: SessionOptions) -> OpenVinoSession:
    if options.provider != "cpu" or options.cuda_graph:
        raise EngineError(
            "OpenVINO runs on the CPU here: leave out --provider and --cuda-graph, or choose --runtime onnx for a GPU."
        )
    chosen_options = OpenVinoOptions(
        options.precision, options.hint, options.streams, options.threads, options.fixed_shapes
    )
    return OpenVinoSession(chosen, chosen_options, options.model_cache)


def torch_session(
    source: "Path | FilteredViT", role: Role, options: SessionOptions, manifest: Manifest | None = None
) -> "TorchSession":
    """The session on PyTorch for a bundle or a patched model. Raises EngineError, MissingDependencyError."""
    if options.runtime.startswith("tensorrt") or options.runtime == "openvino":
        raise EngineError(f"{options.runtime} runs an export directory; a bundle or a model is run by PyTorch.")
    try:
        from tokfilter.runtime.torch_session import TorchSession
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tokfilter"):
            raise
        raise MissingDependencyError(
            f"PyTorch runs bundles and models, and the package {error.name} is not installed: {install_hint('train')}."
        ) from error
    return TorchSession(
        source,
        role,
        manifest,
        threads=options.threads,
        provider=options.provider,
        device=options.device,
        precision=options.precision,
        cuda_graph=options.cuda_graph,
        torch_compile=options.torch_compile,
    )
