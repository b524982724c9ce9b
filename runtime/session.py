"""The interface of every session: a context manager with inputs, outputs and budgets that classifies images.

``CheckedSession`` has the checks of all of them, so that bad input gives the same error from each: images for shape,
type and finite values, budgets against the engine's range, no use after close, no second thread where that is unsafe.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import BudgetError, DataError, EngineError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Budgets", "CheckedSession", "Compute", "QueueSession", "Result", "Session", "TensorSpec", "Timing"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension that is chosen at run time is a name, a fixed one a number."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{_shape_text(self.shape)} {self.dtype}"


@dataclass(frozen=True)
class Budgets:
    """The budgets that an engine serves, in patch tokens.

    low, high: both included
    default: for ``keep=None``
    num_patches: patch tokens of an image, of which a ratio is taken
    """

    low: int
    high: int
    default: int
    num_patches: int

    def tokens(self, keep: Keep | None) -> int:
        """``keep`` in tokens. Raises BudgetError with the budgets that there are."""
        k = self.default if keep is None else tokens_from_keep(keep, self.num_patches)
        if not self.low <= k <= self.high:
            raise BudgetError(
                f"this engine serves {self}, got {k} (keep={keep}). Choose one of these, or export for it."
            )
        return k

    def __str__(self) -> str:
        if self.low == self.high:
            return f"the budget of {self.low} of {self.num_patches} tokens only"
        return f"budgets from {self.low} to {self.high} of {self.num_patches} tokens"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call on a GPU, between device events; ``enqueue_ms`` is host time."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float

    @property
    def latency_ms(self) -> float:
        """Latency as trtexec defines it: host to device, compute, device to host."""
        return self.h2d_ms + self.compute_ms + self.d2h_ms


@dataclass(frozen=True)
class Compute:
    """Milliseconds of one computation without transfers.

    host_ms: enqueue and wait, by the host's clock
    device_ms: between device events
    """

    host_ms: float
    device_ms: float


@dataclass(frozen=True)
class Result:
    """The outputs of one call.

    logits: [B, classes]; of a model that gives embeddings [B, C], the same as ``embedding``; of one that gives masks
        [B, M, H', W'], the same as ``masks``
    indices: [B, k] int32, kept positions among the patches; None from a full model
    timing: of the stages on a GPU; None on a CPU
    later_indices: [B, k_2 + k_3 ...] int32, the rows that each choice behind the first kept among the tokens that it
        ranked; None where a model chooses once
    partners: [B, n_1 + n_2 ...] int32, of a model that merges tokens: for each choice the row that a token is merged
        into unless it is kept
    """

    logits: Array
    indices: Array | None = None
    timing: Timing | None = None
    later_indices: Array | None = None
    partners: Array | None = None

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Array], first: str, timing: Timing | None = None) -> "Result":
        """The result in an engine's outputs by name; ``first`` is the name of the logits or masks."""
        return cls(
            outputs[first], outputs.get("indices"), timing, outputs.get("later_indices"), outputs.get("partners")
        )

    @property
    def embedding(self) -> Array:
        """Embeddings [B, C], of a model without a classifier. Raises DataError where the model gives masks."""
        if self.logits.ndim != 2:
            raise DataError(f"this model gives masks {_shape_text(self.logits.shape)}: read result.masks.")
        return self.logits

    @property
    def masks(self) -> Array:
        """Masks [B, M, H', W'], as logits. Raises DataError where the model classifies."""
        if self.logits.ndim != 4:
            raise DataError(
                f"this model gives logits {_shape_text(self.logits.shape)} and no masks: read result.logits."
            )
        return self.logits


class Session(Protocol):
    """One model file in one engine. Nothing is loaded and no device is used before ``with``."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    thread_safe: bool

    @property
    def budgets(self) -> Budgets:
        """Budgets that this engine serves."""
        ...

    def __enter__(self) -> "Self": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, images: Array, keep: Keep | None = None) -> Result:
        """Classify a batch of images, as ``inputs[0]`` describes them, at the default budget or at ``keep``."""
        ...


@runtime_checkable
class QueueSession(Protocol):
    """A session that runs several batches at the same time by itself."""

    def run_queue(
        self,
        batches: Iterable[Array],
        keep: Keep | None = None,
        done: Callable[[int, Result, float], None] | None = None,
    ) -> int:
        """Run batches; ``done`` gets the position, result and seconds of each. Returns their number."""
        ...


@dataclass
class CheckedSession(ABC):
    """Base of the sessions: ``run`` checks arguments and excludes a second thread, ``_execute`` runs the engine.

    thread_safe: whether several threads may call ``run`` at once; if not, the second caller gets EngineError
    """

    thread_safe: bool = field(default=False, init=False)
    inputs: tuple[TensorSpec, ...] = field(default=(), init=False)
    outputs: tuple[TensorSpec, ...] = field(default=(), init=False)
    _budgets: Budgets | None = field(default=None, init=False)
    _close: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @abstractmethod
    def _open(self) -> Callable[[], None]:
        """Load the engine, set inputs, outputs and budgets; return the function that releases it."""

    @abstractmethod
    def _execute(self, images: Array, k: int) -> Result:
        """Run checked images at k tokens."""

    @property
    def budgets(self) -> Budgets:
        """Budgets that this engine serves. Raises EngineError before ``with``."""
        if self._budgets is None:
            raise EngineError("this session is not open: use it as `with session: session.run(images)`.")
        return self._budgets

    def __enter__(self) -> "Self":
        if self._close is not None:
            raise EngineError("this session is open already: open a second one instead of entering it twice.")
        self._close = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._busy:  # a running call of another thread ends before its memory is released
            close, self._close = self._close, None
            if close is not None:
                close()

    def run(self, images: Array, keep: Keep | None = None) -> Result:
        """Classify images at the default budget, or at ``keep``.

        images: of the shape and type of ``inputs[0]``: float32 [B, 3, H, W], normalised; or uint8, pixels in 0..255
        Raises DataError for images of another shape or type, BudgetError, EngineError.
        """
        self._check_open()
        k = self.budgets.tokens(keep)
        check_images(images, self.inputs[0])
        if self.thread_safe:
            return self._execute(images, k)
        with self._alone():
            self._check_open()  # another thread may have closed it since
            return self._execute(images, k)

    def compute(self, images: Array, keep: Keep | None, seconds: float) -> "list[Compute]":
        """Repeat the computation for ``seconds``, at least once, on images that were copied to the device before.

        Raises EngineError where this session has no such loop; else as ``run``.
        """
        self._check_open()
        k = self.budgets.tokens(keep)
        check_images(images, self.inputs[0])
        with self._alone():
            self._check_open()
            return self._repeat(images, k, seconds)

    def _repeat(self, images: Array, k: int, seconds: float) -> "list[Compute]":
        raise EngineError(f"{type(self).__name__} measures calls with their transfers only.")

    def _check_open(self) -> None:
        if self._close is None:
            raise EngineError("this session is closed: use it inside its `with` block, or open another.")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise EngineError(
                f"{type(self).__name__} is not safe for several threads and is running now: "
                "open one session per thread, or feed it from a queue."
            )
        try:
            yield
        finally:
            self._busy.release()


def check_images(images: Any, spec: TensorSpec) -> None:
    """Raise DataError unless ``images`` is a finite array of the shape and type of ``spec``."""
    if not isinstance(images, np.ndarray):
        raise DataError(f"images must be a numpy array {spec}, got {type(images).__name__}.")
    fits = images.ndim == len(spec.shape) and all(
        got == want for got, want in zip(images.shape, spec.shape, strict=True) if isinstance(want, int)
    )
    if not fits or images.size == 0:
        raise DataError(f"images must be {spec}, got {_shape_text(images.shape)} {images.dtype}.")
    if images.dtype != spec.dtype:
        raise DataError(f"images must be {spec}, got {images.dtype}: {_remedy(images.dtype, spec.dtype)}.")
    if images.dtype != np.uint8 and not _finite(images):
        raise DataError("images contain NaN or infinity: check the decoding and the normalisation.")


def _remedy(got: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    if wanted == np.uint8:
        return "this model normalises its input itself, so give it pixels in 0..255 as they are"
    if got == np.uint8:
        return "normalise the pixels, or export with --input uint8"
    return f"convert with images.astype(np.{wanted})"


def _finite(images: Array) -> bool:
    """Whether no element is NaN or infinite.

    A NaN or infinity makes the sum NaN or infinite, and the sum costs one pass in place of two. Where the sum of finite
    elements overflows, each element is checked.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(images.sum()) or np.isfinite(images).all())


def _shape_text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
