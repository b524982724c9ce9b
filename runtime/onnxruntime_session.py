"""Sessions on ONNX Runtime: CPU, CUDA, TensorRT and TensorRT-RTX execution providers."""

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.checked import checked_file
from tokfilter.artifacts.extras import install_hint
from tokfilter.artifacts.onnx_functions import check_functions
from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.runtime.huge_pages import advised_huge_pages
from tokfilter.runtime.measure.cpu_features import cpu_features, sums_overflow
from tokfilter.runtime.model_files import ModelFile, budgets_from_tensors
from tokfilter.runtime.session import Array, CheckedSession, Result, TensorSpec

__all__ = ["PROVIDERS", "OnnxRuntimeSession", "available_provider", "imported_onnxruntime", "preload_cuda"]

PROVIDERS: Final[Mapping[str, tuple[str, str]]] = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu and TensorRT"),
    "tensorrt-rtx": ("NvTensorRTRTXExecutionProvider", "an onnxruntime built with TensorRT-RTX"),
}
"""Name of a provider in tokfilter -> its name in ONNX Runtime, and the package that contains it."""

_EXACT: Final[Mapping[str, Mapping[str, str]]] = {"cuda": {"use_tf32": "0"}}
"""Provider options that turn off TF32, which has 10 bits of mantissa, as few as fp16."""

_MEMORY: Final = re.compile("/proc/self/fd/[0-9]+")
"""The path of a graph in memory (``checked_file``), which ONNX Runtime names in its errors."""

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


@dataclass
class OnnxRuntimeSession(CheckedSession):
    """One graph in ONNX Runtime. Safe for several threads, as ONNX Runtime's Run is.

    provider: a key of PROVIDERS; an error where ONNX Runtime falls back to another
    threads: intra-op threads; None leaves the number to ONNX Runtime
    spinning: whether idle threads spin while a call runs, which is faster and keeps cores busy; between calls they
        never spin
    huge_pages: whether to request huge pages from Linux for the weights
    provider_options: for the execution provider; they override the defaults here (``_EXACT``)
    """

    model_file: ModelFile
    provider: str = "cpu"
    threads: int | None = None
    spinning: bool = True
    huge_pages: bool = True
    provider_options: Mapping[str, str] = field(default_factory=dict)
    _session: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.thread_safe = True

    def _open(self) -> Callable[[], None]:
        onnxruntime = imported_onnxruntime()
        name = available_provider(onnxruntime, self.provider)
        path = self.model_file.directory / self.model_file.entry.path
        if self.provider != "cpu":
            preload_cuda(onnxruntime)
        chosen = self._provider_options()
        try:
            # By path, not as bytes, which ONNX Runtime's Python would hold as long as the session lives.
            with (
                checked_file(self.model_file.directory, self.model_file.entry) as graph,
                advised_huge_pages(self.huge_pages),
            ):
                check_functions(graph, path.name)
                session = onnxruntime.InferenceSession(
                    str(graph), self._options(onnxruntime), providers=[(name, chosen)]
                )
        except EngineError:
            raise
        except Exception as error:  # ONNX Runtime raises many types; each means that this file does not load
            raise EngineError(
                f"ONNX Runtime cannot load {path}: {_MEMORY.sub(path.name, _first_line(error)).rstrip('.')}."
                f"{self._remedy(error)}"
            ) from error
        if session.get_providers()[0] != name:
            raise EngineError(
                f"ONNX Runtime fell back from {name} to {session.get_providers()[0]}: the provider's libraries or its "
                "device are missing. `tokfilter doctor` lists both."
            )
        self._describe(session, str(path))
        self._session = session
        return self._release

    def _provider_options(self) -> dict[str, str]:
        return {**_EXACT.get(self.provider, {}), **self.provider_options}

    def _remedy(self, error: Exception) -> str:
        if self.model_file.entry.runtime == "onnx-cuda" and "com.microsoft" in str(error):
            return (
                " This ONNX Runtime has no contrib ops, which the graph for CUDA needs: install onnxruntime-gpu, or "
                "export without --cuda."
            )
        on_cpu = self.provider == "cpu" and self.model_file.entry.precision == "bf16"
        return " It has no CPU kernels for bf16: choose another --precision or --provider." if on_cpu else ""

    def _options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what stops it is raised; its log has colours for a terminal
        options.inter_op_num_threads = 1
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.model_file.entry.precision == "int8" and sums_overflow(cpu_features()):
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _describe(self, session: Any, path: str) -> None:
        self.inputs = tuple(_spec(item) for item in session.get_inputs())
        self.outputs = tuple(_spec(item) for item in session.get_outputs())
        self._budgets = budgets_from_tensors(self.model_file, self.inputs, self.outputs, path)

    def _release(self) -> None:
        self._session = None

    def _execute(self, images: Array, k: int) -> Result:
        feeds: dict[str, Array] = {"images": images}
        if len(self.inputs) == 2:
            feeds["slots"] = np.zeros(k, np.int32)
        try:
            outputs = self._session.run(None, feeds)
        except Exception as error:  # see _open
            raise EngineError(f"ONNX Runtime failed at {k} tokens: {_first_line(error)}") from error
        names = [spec.name for spec in self.outputs]
        return Result.from_outputs(dict(zip(names, outputs, strict=True)), names[0])


def imported_onnxruntime() -> Any:
    """The package. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime is not installed: {install_hint('runtime')}, on an NVIDIA machine "
            f"{install_hint('runtime-gpu')}."
        ) from error
    return onnxruntime


def preload_cuda(onnxruntime: Any) -> None:
    """Load CUDA's libraries from NVIDIA's wheels, which the dynamic loader does not search.

    Libraries of the system are found without; one that is missing everywhere fails when the session opens.
    """
    if hasattr(onnxruntime, "preload_dlls"):  # 1.21
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()


def available_provider(onnxruntime: Any, provider: str) -> str:
    """ONNX Runtime's name of a provider that it has. Raises EngineError, MissingDependencyError."""
    if provider not in PROVIDERS:
        raise EngineError(f"provider must be one of {', '.join(PROVIDERS)}, got {provider!r}.")
    name, package = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise MissingDependencyError(
            f"this ONNX Runtime has no {name}; it has {', '.join(available)}. Uninstall onnxruntime, then install "
            f"{package}: both packages write into the same folder."
        )
    return name


def _spec(item: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else str(size) for size in item.shape)
    return TensorSpec(item.name, shape, np.dtype(_DTYPES.get(item.type, np.float32)))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
