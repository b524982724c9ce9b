"""A session on ONNX Runtime's CUDA provider: device memory bound once, page-locked transfers, CUDA graphs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from tokfilter.artifacts.budget import Keep
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.bound_runs import BoundRuns, DeviceMemory
from tokfilter.runtime.cuda_driver import DriverCuda
from tokfilter.runtime.device_images import is_device_array, ortvalue_from_images
from tokfilter.runtime.onnxruntime_session import OnnxRuntimeSession, available_provider, imported_onnxruntime
from tokfilter.runtime.session import Array, Compute, Result
from tokfilter.runtime.stages import output_lengths

__all__ = ["OnnxRuntimeCudaSession"]

_T = TypeVar("_T")

_OPTIONS: Final = {
    # The default tries every algorithm of cuDNN for each new batch; a ViT has one convolution.
    "cudnn_conv_algo_search": "HEURISTIC",
    # In fp16 the kernel sums squares in fp16 without this.
    "enable_skip_layer_norm_strict_mode": "1",
}


@dataclass
class OnnxRuntimeCudaSession(OnnxRuntimeSession):
    """One graph on one GPU and one stream. Not safe for several threads: open one session per thread.

    ``run`` also takes images that lie on the GPU already, as a tensor of PyTorch, CuPy or any library with DLPack;
    it waits for what their library has put on its stream. Such images are not checked for NaN.

    provider: cuda
    device: number of the GPU, as CUDA counts those that are visible
    cuda_graph: capture a CUDA graph for each batch and budget at its first use, and replay it; a capture that fails or
        does not take place raises EngineError
    """

    provider: str = "cuda"
    device: int = 0
    cuda_graph: bool = False
    _cuda: DeviceMemory | None = field(default=None, init=False, repr=False)
    _runs: BoundRuns | None = field(default=None, init=False, repr=False)
    _stream: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.thread_safe = False

    def _open(self) -> Callable[[], None]:
        onnxruntime = imported_onnxruntime()
        available_provider(onnxruntime, self.provider)
        if self.cuda_graph and not hasattr(onnxruntime.InferenceSession, "release_captured_graph"):
            raise MissingDependencyError(
                f"CUDA graphs need ONNX Runtime 1.27 or later, which can release them; this is "
                f"{onnxruntime.__version__}: {_UPGRADE}, or run with cuda_graph=False."
            )
        card = self.model_file.manifest.model
        self._cuda = cuda = self._device_memory()
        try:
            with cuda.current():
                self._stream = cuda.stream()
                super()._open()
                self._runs = BoundRuns(
                    onnxruntime,
                    self._session,
                    self.inputs,
                    self.outputs,
                    cuda,
                    self._place,
                    self._stream,
                    self.cuda_graph,
                    partial(output_lengths, card.reducer, card.choices, card.num_patches),
                )
        except BaseException:
            self._release()
            raise
        return self._release

    def run(self, images: Array, keep: Keep | None = None) -> Result:
        """Classify images at the default budget, or at ``keep``.

        images: [B, 3, H, W], normalised, a numpy array or a contiguous tensor on the session's device
        Raises DataError for images of another shape, type or device, BudgetError, EngineError.
        """
        if not is_device_array(images):
            return super().run(images, keep)
        self._check_open()
        k = self.budgets.tokens(keep)
        with self._alone():
            self._check_open()
            assert self._cuda is not None and self._runs is not None
            with self._cuda.current():
                value = ortvalue_from_images(imported_onnxruntime(), images, self.inputs[0], self._place, self._stream)
                return self._at(k, lambda runs: runs.run_on_device(value, k))

    @property
    def _place(self) -> tuple[str, int]:
        return "cuda", self.device

    def _device_memory(self) -> DeviceMemory:
        return DriverCuda(self.device)

    def _provider_options(self) -> dict[str, str]:
        return {
            **super()._provider_options(),
            **_OPTIONS,
            "device_id": str(self.device),
            "user_compute_stream": str(self._stream),
            "enable_cuda_graph": "1" if self.cuda_graph else "0",
            **self.provider_options,
        }

    def _execute(self, images: Array, k: int) -> Result:
        assert self._cuda is not None
        with self._cuda.current():
            return self._at(k, lambda runs: runs.run(images, k))

    def _repeat(self, images: Array, k: int, seconds: float) -> list[Compute]:
        assert self._cuda is not None
        with self._cuda.current():
            return self._at(k, lambda runs: runs.repeat(images, k, seconds))

    def _at(self, k: int, run: Callable[[BoundRuns], _T]) -> _T:
        assert self._runs is not None
        try:
            return run(self._runs)
        except EngineError as error:
            raise EngineError(f"at {k} tokens: {error}") from error

    def _release(self) -> None:
        cuda, runs = self._cuda, self._runs
        self._runs = self._cuda = None
        if cuda is None:
            return
        with cuda.current():
            if runs is not None:
                runs.close()
            super()._release()
            cuda.close()


_UPGRADE: Final = "pip install -U 'onnxruntime-gpu[cuda,cudnn]'"
