"""A session on PyTorch, eager or compiled, with the interface and checks of the deployed engines.

The only one that imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import Entry, Manifest
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.model_files import Role
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Compute, Result, TensorSpec, Timing
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import TokenFilter

__all__ = ["TorchSession"]

_HALVES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_DRY_RUNS: Final = 3
_PREPARED: Final = 8
"""Shapes whose buffers and graphs are kept: each holds its own device memory."""
_COMPILED: Final = 64
"""Shapes that are compiled in one process."""


@dataclass
class TorchSession(CheckedSession):
    """A bundle in eager PyTorch. Not safe for several threads: the model stores its last selection.

    role: full or filtered, the same weights
    manifest: of the export directory, with the checksum of its bundle
    provider: cpu, or cuda for the first GPU
    precision: of weights and activations; the filter computes in fp32, from tokens in that precision. TF32 is off
    cuda_graph: capture a graph once per batch and budget and replay it, so that launches take no host time
    compiled: compile the model with torch.compile for each batch and budget, at its first use
    """

    bundle: Path
    role: Role
    manifest: Manifest
    threads: int | None = None
    provider: str = "cpu"
    precision: str = "fp32"
    cuda_graph: bool = False
    compiled: bool = False
    _model: FilteredViT | None = field(default=None, init=False, repr=False)
    _forward: "_Forward | None" = field(default=None, init=False, repr=False)
    _on_gpu: dict[tuple[int, int], "_GpuCall"] = field(default_factory=dict, init=False, repr=False)

    @property
    def entry(self) -> Entry:
        """The bundle as an entry of the manifest."""
        digest = self.manifest.source.get("sha256", "")
        return Entry(self.bundle.name, self.role, digest, self.bundle.stat().st_size, precision=self.precision)

    def _open(self) -> Callable[[], None]:
        _check(self.provider, self.cuda_graph)
        if sha256(self.bundle) != self.manifest.source.get("sha256"):
            raise EngineError(
                f"{self.bundle} is not the bundle of this export: its checksum differs. Export it again, or use that "
                "bundle."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._model = model = _cast(model_from_bundle(load_bundle(self.bundle)).eval(), self.precision)
        model.to(self.provider)
        self._forward = _forward_of(model, self.precision, self.compiled)
        torch.backends.cudnn.allow_tf32 = False
        size, patches = self.manifest.model.input_size, model.num_patches
        self.inputs = (TensorSpec("images", ("batch", *size), np.dtype(np.float32)),)
        outputs = [TensorSpec("logits", ("batch", self.manifest.model.classes), np.dtype(np.float32))]
        low, high, default = (patches, patches, patches) if self.role == "full" else (1, patches, model.keep_tokens)
        if self.role == "filtered":
            outputs.append(TensorSpec("indices", ("batch", "k"), np.dtype(np.int32)))
        self.outputs, self._budgets = tuple(outputs), Budgets(low, high, default, patches)
        return self._release

    def _release(self) -> None:
        self._on_gpu.clear()
        self._model = self._forward = None

    @torch.inference_mode()
    def _execute(self, images: Array, k: int) -> Result:
        assert self._forward is not None
        if self.provider == "cuda":
            return self._gpu_call(len(images), k)(images)
        logits, indices = self._forward(torch.from_numpy(images), k)
        return Result(logits.numpy(), None if indices is None else indices.numpy())

    @torch.inference_mode()
    def _repeat(self, images: Array, k: int, seconds: float) -> list[Compute]:
        if self.provider != "cuda":
            return super()._repeat(images, k, seconds)
        return self._gpu_call(len(images), k).repeat(images, seconds)

    def _gpu_call(self, batch: int, k: int) -> "_GpuCall":
        if (batch, k) not in self._on_gpu:
            assert self._forward is not None
            while len(self._on_gpu) >= _PREPARED:
                del self._on_gpu[next(iter(self._on_gpu))]
            shape = (batch, *self.manifest.model.input_size)
            self._on_gpu[batch, k] = _GpuCall(self._forward, shape, k, self.cuda_graph)
        return self._on_gpu[batch, k]


_Call = Callable[[], tuple[Tensor, Tensor | None]]
_Forward = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]
"""Images [B, 3, H, W] and a budget to logits [B, classes] in fp32, and kept positions [B, k]."""


class _GpuCall:
    """One shape on the GPU: pinned host memory, device memory for the images, optionally a CUDA graph."""

    def __init__(self, forward: _Forward, shape: tuple[int, ...], k: int, cuda_graph: bool) -> None:
        self._host_images = torch.empty(shape, pin_memory=True)
        self._images = torch.zeros(shape, device="cuda")
        self._events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
        self._call: _Call = lambda: forward(self._images, k)
        logits, indices = self._call()
        self._host_outputs = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (logits, indices) if t is not None
        ]
        if cuda_graph:
            self._capture()

    def _capture(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        call: _Call = self._call
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.stream(side):
            for _ in range(_DRY_RUNS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            outputs = call()

        def replay() -> tuple[Tensor, Tensor | None]:
            graph.replay()
            return outputs

        self._call = replay

    def __call__(self, images: Array) -> Result:
        self._host_images.copy_(torch.from_numpy(images))
        start_event, copied, computed, end_event = self._events
        start = perf_counter()
        start_event.record()
        self._images.copy_(self._host_images, non_blocking=True)
        copied.record()
        outputs = [tensor for tensor in self._call() if tensor is not None]
        computed.record()
        for host, device in zip(self._host_outputs, outputs, strict=True):
            host.copy_(device, non_blocking=True)
        end_event.record()
        enqueue_ms = (perf_counter() - start) * 1e3
        end_event.synchronize()
        spans = (start_event.elapsed_time(copied), copied.elapsed_time(computed), computed.elapsed_time(end_event))
        logits, *rest = [tensor.numpy().copy() for tensor in self._host_outputs]
        return Result(logits, rest[0] if rest else None, Timing(*spans, enqueue_ms))

    def repeat(self, images: Array, seconds: float) -> list[Compute]:
        """Repeat the computation on images that stay on the device."""
        self(images)
        begin, end, *_ = self._events
        times: list[Compute] = []
        now = start = perf_counter()
        while not times or now - start < seconds:
            before = now
            begin.record()
            self._call()
            end.record()
            end.synchronize()
            now = perf_counter()
            times.append(Compute((now - before) * 1e3, begin.elapsed_time(end)))
            now = perf_counter()  # reading the events is no part of the next call
        return times


def _check(provider: str, cuda_graph: bool) -> None:
    if provider not in ("cpu", "cuda"):
        raise EngineError(f"the provider of PyTorch must be cpu or cuda, got {provider}.")
    if provider == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("PyTorch finds no usable GPU: see `tokfilter doctor`.")
    if cuda_graph and provider != "cuda":
        raise EngineError("a CUDA graph of PyTorch needs --provider cuda.")


def _cast(model: FilteredViT, precision: str) -> FilteredViT:
    """The model in a precision, its scorer in fp32."""
    if precision != "fp32":
        scorer = model.scorer
        model.to(_HALVES[precision])
        scorer.float()
        scorer.register_forward_pre_hook(lambda module, inputs: tuple(tensor.float() for tensor in inputs))
        if isinstance(scorer, TokenFilter) and scorer.summary is not None:
            scorer.summary.to(_HALVES[precision])
    return model


def _forward_of(model: FilteredViT, precision: str, compiled: bool) -> _Forward:
    """The model as a function. Compiled: one graph for each batch and budget; more than _COMPILED raise an error."""
    dtype = _HALVES.get(precision, torch.float32)
    call = _compiled(model) if compiled else model

    def forward(images: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
        logits: Tensor = call(images.to(dtype), k)
        return logits.float(), model.last.indices

    return forward


def _compiled(model: FilteredViT) -> Callable[[Tensor, int], Tensor]:
    from torch._dynamo import config

    call = torch.compile(model, fullgraph=True, dynamic=False)

    def run(images: Tensor, k: int) -> Tensor:
        with config.patch(recompile_limit=_COMPILED):  # PyTorch's own limit is 8
            logits: Tensor = call(images, k)
        return logits

    return run
