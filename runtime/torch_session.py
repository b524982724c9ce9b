"""A session on PyTorch, eager or compiled, with the interface and checks of the deployed engines.

This module and its neighbours ``torch_*`` import torch; nothing else in ``runtime`` does, unless a function is called.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from tokfilter.artifacts.golden import GoldenArrays
from tokfilter.artifacts.manifest import Manifest
from tokfilter.errors import DataError, EngineError, MissingDependencyError
from tokfilter.runtime.model_files import ModelFile, Role
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Compute, Result, TensorSpec
from tokfilter.runtime.torch_gpu import GpuCall
from tokfilter.runtime.torch_network import Forward, Network, compiled_network, mode_from_option
from tokfilter.runtime.torch_source import opened_bundle, opened_model
from tokfilter.vit.model import FilteredViT

__all__ = ["TorchSession"]

_PREPARED: Final = 8
"""Shapes whose buffers and graphs are kept: each holds its own device memory."""


@dataclass
class TorchSession(CheckedSession):
    """A bundle or a patched model in PyTorch. Not safe for several threads: the model stores its last selection.

    source: model.pt, or a patched model, whose weights are copied when the session opens
    role: full or filtered, the same weights
    manifest: of the export directory whose bundle ``source`` must be; None for none
    provider, device: cpu, or cuda and the number of the GPU
    precision: of weights and activations; the filter computes in fp32, from tokens in that precision. TF32 is off
    threads: of PyTorch in this process, until the session closes
    cuda_graph: capture a graph once per batch and budget and replay it, so that launches take no host time
    torch_compile: whether to compile the model, or a mode of torch.compile
    """

    source: "Path | FilteredViT"
    role: Role = "filtered"
    manifest: Manifest | None = None
    threads: int | None = None
    provider: str = "cpu"
    device: int = 0
    precision: str = "fp32"
    cuda_graph: bool = False
    torch_compile: bool | str = False
    _model_file: ModelFile | None = field(default=None, init=False, repr=False)
    _golden: GoldenArrays | None = field(default=None, init=False, repr=False)
    _forward: Forward | None = field(default=None, init=False, repr=False)
    _on_gpu: dict[tuple[int, int], GpuCall] = field(default_factory=dict, init=False, repr=False)

    @property
    def model_file(self) -> ModelFile:
        """The model, with a manifest that describes it alone. Raises EngineError before ``with``."""
        if self._model_file is None:
            raise EngineError("this session is not open: use it as `with session: session.run(images)`.")
        return self._model_file

    @property
    def golden(self) -> GoldenArrays:
        """The bundle's golden tensors. Raises DataError for a model in memory, which has none."""
        if self._golden is None:
            raise DataError("a model in memory has no golden tensors: save it as a bundle (tokfilter.save_bundle).")
        return self._golden

    def _open(self) -> Callable[[], None]:
        mode = mode_from_option(self.torch_compile)
        _check_device(self.provider, self.device, self.cuda_graph, mode)
        if isinstance(self.source, Path):
            model, self._model_file, self._golden = opened_bundle(self.source, self.role, self.precision, self.manifest)
        else:
            model, self._model_file = opened_model(self.source, self.role, self.precision)
        restore = _settings(self.threads, self.provider)
        network = Network(model, self.precision).to(self._place)
        self._forward = network if mode is None else compiled_network(network, mode)
        self._describe(model)

        def release() -> None:
            self._on_gpu.clear()
            self._forward = None
            restore()

        return release

    def _describe(self, model: FilteredViT) -> None:
        card, patches = self.model_file.manifest.model, model.num_patches
        self.inputs = (TensorSpec("images", ("batch", *card.input_size), np.dtype(np.float32)),)
        outputs = [TensorSpec(card.output_name, ("batch", *card.output_shape), np.dtype(np.float32))]
        if self.role == "filtered":
            outputs.append(TensorSpec("indices", ("batch", "k"), np.dtype(np.int32)))
            wanted = int(self.model_file.manifest.choice.get("tokens", model.keep_tokens))
            low = model.drop.smallest
            self._budgets = Budgets(low, patches, min(max(wanted, low), patches), patches)
        else:
            self._budgets = Budgets(patches, patches, patches, patches)
        self.outputs = tuple(outputs)

    @property
    def _place(self) -> torch.device:
        return torch.device("cuda", self.device) if self.provider == "cuda" else torch.device("cpu")

    @torch.inference_mode()
    def _execute(self, images: Array, k: int) -> Result:
        assert self._forward is not None
        try:
            if self.provider == "cuda":
                with torch.cuda.device(self.device):
                    return self._gpu_call(self._forward, images.shape, k)(images)
            outputs = self._forward(torch.from_numpy(np.ascontiguousarray(images)), k)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"PyTorch has no device memory for a batch of {len(images)} at {k} tokens: use a smaller batch."
            ) from error
        return Result.from_outputs({name: tensor.numpy() for name, tensor in outputs.items()}, "logits")

    @torch.inference_mode()
    def _repeat(self, images: Array, k: int, seconds: float) -> list[Compute]:
        if self.provider != "cuda" or self._forward is None:
            return super()._repeat(images, k, seconds)
        with torch.cuda.device(self.device):
            return self._gpu_call(self._forward, images.shape, k).repeat(images, seconds)

    def _gpu_call(self, forward: Forward, shape: tuple[int, ...], k: int) -> GpuCall:
        key = (shape[0], k)
        if key not in self._on_gpu:
            while len(self._on_gpu) >= _PREPARED:
                del self._on_gpu[next(iter(self._on_gpu))]
            self._on_gpu[key] = GpuCall(forward, shape, k, self.cuda_graph)
        return self._on_gpu[key]


def _check_device(provider: str, device: int, cuda_graph: bool, mode: str | None) -> None:
    if provider not in ("cpu", "cuda"):
        raise EngineError(f"the provider of PyTorch must be cpu or cuda, got {provider}.")
    if provider == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("PyTorch finds no usable GPU: see `tokfilter doctor`.")
    if provider == "cuda" and not 0 <= device < torch.cuda.device_count():
        raise EngineError(f"PyTorch has GPUs 0 to {torch.cuda.device_count() - 1}, got {device}.")
    if cuda_graph and provider != "cuda":
        raise EngineError("a CUDA graph of PyTorch needs --provider cuda.")
    if cuda_graph and mode in ("reduce-overhead", "max-autotune"):
        raise EngineError(f"torch.compile captures CUDA graphs by itself in mode {mode}: leave --cuda-graph out.")


def _settings(threads: int | None, provider: str) -> Callable[[], None]:
    """Set what PyTorch has once per process; returns the function that sets it back."""
    former_threads = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    former_tf32: Any = torch.backends.cudnn.allow_tf32 if provider == "cuda" else None
    if former_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = False

    def restore() -> None:
        if threads is not None:
            torch.set_num_threads(former_threads)
        if former_tf32 is not None:
            torch.backends.cudnn.allow_tf32 = former_tf32

    return restore
