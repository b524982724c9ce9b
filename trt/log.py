"""TensorRT's error log. Its calls return None or False on failure; the reason is in the log only."""

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

__all__ = ["error_log", "join_messages", "logged_errors", "repeats_cuda_failure", "start_failure"]

_MOST: Final = 20
"""Errors kept, so that the log of a long-running service does not grow."""


@cache
def error_log(module: Any) -> Any:
    """The ``ILogger`` of a TensorRT module, which keeps messages of severity ERROR and above in ``errors``.

    TensorRT uses one logger per process and calls it from its own threads. ``warnings`` is for failures without an
    error: TensorRT 8.6 logs a missing driver as a warning.
    """

    class ErrorLog(module.ILogger):  # type: ignore[misc]  # the base class exists only where TensorRT is installed
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_MOST)
            self.warnings: deque[str] = deque(maxlen=_MOST)

        def log(self, severity: Any, message: str) -> None:
            levels = module.ILogger.Severity
            if self.errors and repeats_cuda_failure(message):
                return
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == levels.WARNING:
                self.warnings.append(message)

    return ErrorLog()


def logged_errors(module: Any) -> str:
    """The errors logged since the last call, as one line; clears the log."""
    log = error_log(module)
    messages = tuple(log.errors)  # a copy: other threads may be logging
    log.errors.clear()
    log.warnings.clear()
    return join_messages(messages)


def start_failure(module: Any, error: Exception) -> str:
    """Why TensorRT gave no builder or runtime: its errors, else its warnings, else ``error``; clears the log."""
    log = error_log(module)
    messages = tuple(log.errors) or tuple(log.warnings) or (str(error),)
    logged_errors(module)
    return join_messages(messages)


def join_messages(messages: Sequence[str]) -> str:
    """Messages as one line without repetitions and final stops; "no reason given" where there are none."""
    return " / ".join(dict.fromkeys(message.strip().rstrip(".") for message in messages)) or "no reason given"


def repeats_cuda_failure(message: str) -> bool:
    """Whether it is the line that follows each error where CUDA does not start, whatever failed (10.15 and later)."""
    return "catchCudaError" in message
