"""The methods of the micro-benchmark: torch, our kernel alone, and TensorRT engines of one small graph each.

A method builds, for one case, a function that enqueues one call on torch's current stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx
import torch
from torch import Tensor

from tokfilter.benchmarks.micro.cases import TimingCase
from tokfilter.benchmarks.micro.graphs import native_graph, plugin_graph, topk_last_dim_graph
from tokfilter.benchmarks.micro.native import GpuKernel, arguments_from_tensors, build_gpu_library
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.kernels.build import cache_directory, plugin_path
from tokfilter.kernels.torch_op import token_select
from tokfilter.trt.engine import engine_from_memory
from tokfilter.trt.log import error_log, logged_errors
from tokfilter.trt.module import tensorrt_module
from tokfilter.trt.network import Network, Shapes
from tokfilter.trt.plugins import load_plugins
from tokfilter.trt.versions import SINCE

if TYPE_CHECKING:
    from tokfilter.trt.types import IHostMemory

__all__ = [
    "METHODS",
    "Method",
    "call_from_graph",
    "example",
    "plan_from_graph",
    "torch_call",
]

Call = Callable[[], Tensor]
"""Enqueues one call on the current stream; returns selected [B, P+k, C], the same tensor every time."""


def example(case: TimingCase, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens [B, P+N, C] and scores [B, N] without ties, so that all methods must keep the same rows."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    tokens = torch.randn(case.batch, case.prefix_tokens + case.num_patches, case.channels, generator=generator)
    ranks = torch.rand(case.batch, case.num_patches, generator=generator).argsort(dim=1)
    return tokens.to(dtype).to(device), ranks.float().to(device)


def torch_call(case: TimingCase, tokens: Tensor, scores: Tensor) -> Call:
    """torch.topk, gather, cat."""

    def call() -> Tensor:
        kept = scores.topk(case.k, dim=1).indices
        patches = tokens[:, case.prefix_tokens :].gather(1, kept.unsqueeze(-1).expand(-1, -1, case.channels))
        return torch.cat([tokens[:, : case.prefix_tokens], patches], dim=1)

    return call


def plan_from_graph(module: Any, graph: bytes, shapes: Shapes | None = None) -> "IHostMemory":
    """Build with the graph's own types and TF32 off, so that no method rounds differently from another.

    shapes: input -> (min, opt, max) shape, where the graph leaves them free
    Raises EngineError with the parser's messages.
    """
    network = Network(module)
    network.parse(graph)
    network.config.clear_flag(module.BuilderFlag.TF32)
    if shapes:
        network.add_profile(shapes)
    return network.build()


def call_from_graph(module: Any, graph: onnx.ModelProto, case: TimingCase, tokens: Tensor, scores: Tensor) -> Call:
    """A call of an engine on these tensors. Raises EngineError."""
    engine, runtime = engine_from_memory(module, plan_from_graph(module, graph.SerializeToString()))
    context = engine.create_execution_context()
    if context is None:
        raise EngineError(f"no execution context: {logged_errors(module)}. Free device memory.")
    selected = tokens.new_empty(case.batch, case.prefix_tokens + case.k, case.channels)
    for name, tensor in {"tokens": tokens, "scores": scores, "selected": selected}.items():
        context.set_tensor_address(name, tensor.data_ptr())

    def call(_alive: tuple[Any, ...] = (runtime, engine, tokens, scores)) -> Tensor:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"TensorRT could not enqueue: {logged_errors(module)}.")
        return selected

    return call


Maker = Callable[[TimingCase, Tensor, Tensor, Path | None], Call]
"""(case, tokens, scores, plugin library) -> a call. Raises MissingDependencyError for a missing package or GPU."""


@dataclass(frozen=True)
class Method:
    """An implementation of TokenSelect. order: of the kept rows; make: builds a call for a case."""

    name: str
    order: str
    make: Maker

    def expected(self, case: TimingCase, tokens: Tensor, scores: Tensor) -> Tensor:
        """The expected result, bit for bit: [B, P+k, C]."""
        return token_select(tokens, scores, case.k, case.prefix_tokens, self.order)[0]


def _torch(case: TimingCase, tokens: Tensor, scores: Tensor, _library: Path | None) -> Call:
    return torch_call(case, tokens, scores)


def _kernel(order: str) -> Maker:
    """The CUDA kernel without an engine around it, built by nvcc for this GPU."""

    def make(case: TimingCase, tokens: Tensor, scores: Tensor, _library: Path | None) -> Call:
        kernel = GpuKernel(build_gpu_library(cache_directory() / "kernel"))
        selected = tokens.new_empty(case.batch, case.prefix_tokens + case.k, case.channels)
        indices = torch.empty(case.batch, case.k, dtype=torch.int32, device=tokens.device)
        arguments = arguments_from_tensors(tokens, scores, selected, indices, case.prefix_tokens, order)

        def call(_alive: tuple[Tensor, ...] = (tokens, scores, indices)) -> Tensor:
            status = kernel.launch(arguments, torch.cuda.current_stream().cuda_stream)
            if status != 0:
                raise EngineError(f"the kernel did not launch: CUDA error {status}.")
            return selected

        return call

    return make


def _plugin(order: str) -> Maker:
    def make(case: TimingCase, tokens: Tensor, scores: Tensor, library: Path | None) -> Call:
        module = tensorrt_module("tensorrt")
        path = library or plugin_path()
        load_plugins(module, module.get_plugin_registry(), {path.name: path})
        return call_from_graph(module, plugin_graph(case, order), case, tokens, scores)

    return make


def _native(runtime: str) -> Maker:
    def make(case: TimingCase, tokens: Tensor, scores: Tensor, _library: Path | None) -> Call:
        return call_from_graph(tensorrt_module(runtime), native_graph(case), case, tokens, scores)

    return make


def _last_dim(case: TimingCase, tokens: Tensor, scores: Tensor, _library: Path | None) -> Call:
    module = tensorrt_module("tensorrt")
    module.init_libnvinfer_plugins(error_log(module), "")
    if module.get_plugin_registry().get_creator("TopkLastDim", "1", "") is None:
        since = ".".join(map(str, SINCE["TopkLastDim"]))
        raise MissingDependencyError(f"TensorRT {module.__version__} has no plugin TopkLastDim: use {since} or later.")
    return call_from_graph(module, topk_last_dim_graph(case), case, tokens, scores)


_METHODS: Final = (
    Method("tokfilter kernel, by position", "position", _kernel("position")),
    Method("tokfilter kernel, by score", "score", _kernel("score")),
    Method("tokfilter plugin, by position", "position", _plugin("position")),
    Method("tokfilter plugin, by score", "score", _plugin("score")),
    Method("TensorRT TopK + Gather", "score", _native("tensorrt")),
    Method("NVIDIA TopkLastDim + Gather", "score", _last_dim),
    Method("TensorRT-RTX TopK + Gather", "score", _native("tensorrt-rtx")),
    Method("torch topk + gather + cat", "score", _torch),
)
METHODS: Final[Mapping[str, Method]] = {method.name: method for method in _METHODS}
