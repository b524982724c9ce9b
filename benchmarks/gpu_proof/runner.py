"""Runs the steps one after another, each in a child process that is killed at its time limit with all it started."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tokfilter.benchmarks.gpu_proof.document import Document
from tokfilter.benchmarks.gpu_proof.probe import last_line
from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.benchmarks.gpu_proof.steps import PREPARATION, Step
from tokfilter.runtime.measure.machine import conditions

__all__ = ["Ended", "run_child", "run_steps"]

_LEAST_S: Final = 5.0
"""A step is not started with less time left."""

_WORKER: Final = "tokfilter.benchmarks.gpu_proof.step_process"


@dataclass(frozen=True)
class Ended:
    """How a step ended: done, failed, cannot run, device first needed, stopped (at its limit)."""

    state: str
    reason: str


def run_steps(
    steps: Sequence[Step], settings: Settings, document: Document, say: Callable[[str], None] = lambda _: None
) -> None:
    """Run the preparation, then the steps, and fill the document; a step that fails does not stop the others.

    say: called with one line per step
    """
    start = monotonic()
    document.content["conditions"] = {"before": conditions(), "after": None}
    logs = settings.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for step in (*PREPARATION, *steps):
        left = settings.minutes * 60 - (monotonic() - start)
        if left < _LEAST_S:
            document.left_out(step, f"{settings.minutes:g} minutes were used up.")
            say(f"{step.name}: not reached")
            continue
        # A dry run has no device whose minutes count; a rehearsal may be on a small machine.
        limit, begun = left if settings.dry_run else min(step.limit_s, left), monotonic()
        document.begin(step, limit)
        try:
            ended = run_child(step, settings, document, limit, logs / f"{step.name}.log")
        except BaseException as error:
            document.end("interrupted", type(error).__name__, monotonic() - begun)
            raise
        seconds = monotonic() - begun
        document.end(ended.state, ended.reason, seconds)
        say(f"{step.name}: {ended.state} after {seconds:.0f} s{': ' if ended.reason else ''}{ended.reason}")
    document.content["conditions"]["after"] = conditions()
    document.write()


def run_child(step: Step, settings: Settings, document: Document, limit_s: float, log: Path) -> Ended:
    """Run one step and add its results to the document as they come."""
    request = {"run": step.run, "arguments": step.arguments, "settings": settings.text(), "found": document.found}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # a group of its own, so that its workers are stopped with it
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            ended = _collect(process, step, document, monotonic() + limit_s)
        finally:
            _kill_group(process)
    if ended is None:
        return Ended("stopped", f"its limit of {limit_s:.0f} s was over; the results until then are kept.")
    if ended.state == "":
        tail = last_line(log.read_text(encoding="utf-8", errors="replace"))
        return Ended("failed", f"its process ended with status {process.returncode}: {tail}")
    return ended


def _collect(process: "subprocess.Popen[bytes]", step: Step, document: Document, deadline: float) -> Ended | None:
    """Read results until the process ends; None at the deadline, state "" where it ended without saying how."""
    assert process.stdout is not None
    ended = Ended("", "")
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - monotonic()
            if left <= 0 or not selector.select(left):
                return None
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                process.wait()
                return ended
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                result: dict[str, Any] = json.loads(line)
                if result["kind"] == "end":
                    ended = Ended(result["state"], result["reason"])
                else:
                    document.add(step, result)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the step and every process that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
