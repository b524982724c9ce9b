"""What every engine offers: a context manager that describes itself and runs images at a budget.

``CheckedSession`` does what all of them share, so that bad input gets the same sentence from each: images are checked
for shape, type and finiteness, budgets against the engine's range, and use after close or from a second thread is
refused where it is not safe.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.errors import BudgetError, DataError, EngineError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Budgets", "CheckedSession", "Result", "Session", "TensorSpec", "Timing"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension that is chosen at run time stands as a name, a fixed one as a number."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{_shape_text(self.shape)} {self.dtype}"


@dataclass(frozen=True)
class Budgets:
    """Which budgets an engine serves, in patch tokens.

    low, high: both included
    default: what ``keep=None`` means
    patches: patch tokens of an image; a ratio is a share of them
    """

    low: int
    high: int
    default: int
    num_patches: int

    def tokens(self, keep: Keep | None) -> int:
        """The budget that ``keep`` stands for. Raises BudgetError that says which budgets there are."""
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
class Result:
    """What one call gave.

    logits: [B, classes]
    indices: [B, k] int32, kept positions among the patches; None from a full model
    timing: where the time went on a GPU; None on a CPU
    """

    logits: Array
    indices: Array | None = None
    timing: Timing | None = None


class Session(Protocol):
    """An engine that runs one model file. Nothing is loaded and no device is touched before ``with``."""

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
        """Classify images [B, 3, H, W], normalised, at the default budget or at ``keep``."""
        ...


@dataclass
class CheckedSession(ABC):
    """Base of the sessions: ``run`` checks and guards, ``_execute`` is the engine's own part.

    thread_safe: whether several threads may call ``run`` at once; if not, the second caller is refused
    """

    thread_safe: bool = field(default=False, init=False)
    inputs: tuple[TensorSpec, ...] = field(default=(), init=False)
    outputs: tuple[TensorSpec, ...] = field(default=(), init=False)
    _budgets: Budgets | None = field(default=None, init=False)
    _close: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @abstractmethod
    def _open(self) -> Callable[[], None]:
        """Load the engine, set inputs, outputs and budgets; return what releases it."""

    @abstractmethod
    def _execute(self, images: Array, k: int) -> Result:
        """Run checked images [B, 3, H, W] at k tokens."""

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
        with self._busy:  # a call that another thread is in ends before its memory goes
            close, self._close = self._close, None
            if close is not None:
                close()

    def run(self, images: Array, keep: Keep | None = None) -> Result:
        """Classify images at the default budget, or at ``keep``.

        images: [B, 3, H, W], normalised, of the type that ``inputs[0]`` names
        Raises DataError for images that do not fit, BudgetError, EngineError.
        """
        self._check_open()
        k = self.budgets.tokens(keep)
        check_images(images, self.inputs[0])
        if self.thread_safe:
            return self._execute(images, k)
        with self._alone():
            self._check_open()  # another thread may have closed it since
            return self._execute(images, k)

    def _check_open(self) -> None:
        if self._close is None:
            raise EngineError("this session is closed: use it inside its `with` block, or open another.")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise EngineError(
                f"{type(self).__name__} is not safe for several threads and is running now: "
                "open one session per thread, or put a queue before it."
            )
        try:
            yield
        finally:
            self._busy.release()


def check_images(images: Any, spec: TensorSpec) -> None:
    """Raise DataError unless ``images`` is a finite array of the shape and type of ``spec``."""
    if not isinstance(images, np.ndarray):
        raise DataError(f"images want a numpy array {spec}, got {type(images).__name__}.")
    fits = images.ndim == len(spec.shape) and all(
        got == want for got, want in zip(images.shape, spec.shape, strict=True) if isinstance(want, int)
    )
    if not fits or images.size == 0:
        raise DataError(f"images want {spec}, got {_shape_text(images.shape)} {images.dtype}.")
    if images.dtype != spec.dtype:
        raise DataError(f"images want {spec}, got {images.dtype}: convert with images.astype(np.{spec.dtype}).")
    if not _finite(images):
        raise DataError("images hold NaN or infinity: check the decoding and the normalisation.")


def _finite(images: Array) -> bool:
    """Whether no element is NaN or infinite. One NaN or infinity makes a sum so: one pass, half the time of two.

    A finite array whose sum overflows is looked at again.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(images.sum()) or np.isfinite(images).all())


def _shape_text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
