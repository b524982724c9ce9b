"""A worker in TensorRT's Python: the request is a JSON object, the last line of its output the answer."""

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.probe import last_line
from tokfilter.errors import EngineError

__all__ = ["WorkerError", "ask"]


class WorkerError(EngineError):
    """A worker gave no answer. output: all that it, and a program that ran it, wrote."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(reason)
        self.output = output


def ask(context: Context, module: str, request: Any, before: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """Run ``python -m tokfilter.benchmarks.gpu_proof.MODULE REQUEST`` and return its answer.

    before: words of a program that runs it, such as compute-sanitizer
    Raises WorkerError with the worker's error, or the last line of its output.
    """
    interpreter = context.settings.tensorrt
    command = interpreter.command(f"tokfilter.benchmarks.gpu_proof.{module}", json.dumps(request))
    result = subprocess.run(
        [*before, *command],
        env={**interpreter.variables(), **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    answer = _last_object(result.stdout)
    if "answer" not in answer:
        reason = answer.get("error") or f"status {result.returncode}: {last_line(result.stderr or result.stdout)}"
        raise WorkerError(str(reason), result.stdout)
    return {**answer["answer"], "output": result.stdout}


def _last_object(output: str) -> dict[str, Any]:
    """The last line that is a JSON object; empty where there is none."""
    for line in reversed(output.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}
