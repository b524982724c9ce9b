"""What a step gets: the settings, what the machine has, and how it reports a result."""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO, Any

from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.errors import MissingDependencyError, TokfilterError

__all__ = ["Context", "DeviceNeededError"]


class DeviceNeededError(TokfilterError):
    """A dry run has come to the point where the device is first needed."""


@dataclass
class Context:
    """Settings and findings of a run; ``emit`` sends one result to the parent process.

    found: part of the machine -> {"found": text} or {"missing": reason}
    replies: where results are written, one JSON line each
    """

    settings: Settings
    found: Mapping[str, Mapping[str, Any]]
    replies: IO[str]
    _lock: AbstractContextManager[Any] = field(default_factory=threading.Lock, repr=False)

    def emit(self, kind: str, **fields: Any) -> None:
        """Send one result; safe in several threads."""
        line = json.dumps({"kind": kind, **fields}, allow_nan=False)
        with self._lock:
            self.replies.write(line + "\n")
            self.replies.flush()

    def need(self, *parts: str) -> None:
        """Raise MissingDependencyError for the first part that this machine does not have, with its reason."""
        for part in parts:
            reason = self.found.get(part, {"missing": f"{part} was not looked for"}).get("missing")
            if reason is not None:
                raise MissingDependencyError(str(reason))

    def has(self, part: str) -> bool:
        """Whether this machine has a part."""
        return "found" in self.found.get(part, {})

    def device(self, what: str, *parts: str) -> None:
        """Called before the first use of the device: ``what`` will be done, and needs ``parts``.

        Raises DeviceNeededError in a dry run, MissingDependencyError where the driver, a GPU or a part is missing.
        """
        if self.settings.dry_run:
            missing = [str(self.found[p]["missing"]) for p in parts if "missing" in self.found.get(p, {})]
            raise DeviceNeededError(" ".join([f"{what}.", *missing]))
        self.need("gpu", *parts)


Run = Callable[[Context], None]
