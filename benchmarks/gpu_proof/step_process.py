"""The process of one step, started by ``runner``.

Standard input holds the step, the settings and what the machine has; standard output the results, one JSON line each,
of which the last has the kind ``end``. Output of libraries is sent to standard error.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import IO, Any, Final

from tokfilter.benchmarks.gpu_proof.context import Context, DeviceNeededError
from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.errors import MissingDependencyError, TokfilterError

__all__ = ["main", "run_step"]

_PR_SET_PDEATHSIG: Final = 1


def run_step(request: dict[str, Any], replies: IO[str]) -> None:
    """Run a step and write its results, the kind ``end`` with its state last."""
    context = Context(Settings.from_text(request["settings"]), request["found"], replies)
    module, _, function = request["run"].partition(":")
    try:
        getattr(import_module(module), function)(context, *request["arguments"])
        state, reason = "done", ""
    except DeviceNeededError as error:
        state, reason = "device first needed", str(error)
    except MissingDependencyError as error:
        state, reason = "cannot run", str(error)
    except TokfilterError as error:
        state, reason = "failed", str(error)
    except Exception as error:
        traceback.print_exc()
        state, reason = "failed", f"{type(error).__name__}: {error}"
    context.emit("end", state=state, reason=reason)


def _end_with_parent() -> None:
    """A parent that is killed takes this process with it, which its own process group would not (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main() -> None:
    """Run the step of standard input."""
    _end_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    run_step(json.loads(sys.stdin.read()), replies)


if __name__ == "__main__":
    main()
