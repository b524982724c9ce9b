"""Run one runtime on one file: each case gets its difference from torch, or the runtime's sentence."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokfilter.benchmarks.portability.cases import FILES, Case, cases_of_file, write_for_probe
from tokfilter.benchmarks.portability.environments import command_of
from tokfilter.benchmarks.portability.runtimes import Runtime

__all__ = ["results_of_runtime"]

_LIMIT_S: Final = 900
"""For one process: reading a file and all of its cases. IREE and TVM compile for minutes on two cores."""

_RELATIVE: Final = 1e-3
"""Largest difference of a logit, over the image's largest logit. MNN and ncnn approximate exp and erf; one other token
makes more than 1e-2."""

_COSINE: Final = 0.99
"""What the logits of a graph that a tool made less exact must reach."""

Result = dict[str, Any]


def results_of_runtime(
    runtime: Runtime, environment: Path, exported: Path, cases: list[Case]
) -> dict[str, list[Result]]:
    """File -> one result per case: batch, tokens, and ``difference`` with ``cosine`` and ``passed``, or ``error``.

    difference: largest difference of a logit from torch, over the image's largest logit
    """
    found = {}
    for file in FILES:
        wanted = cases_of_file(cases, file)
        if runtime.is_tool:
            answers = list(_with_tool(runtime, environment, exported / file, wanted))
        else:
            answers = list(_with_probe(runtime, environment, exported / file, wanted))
        found[file] = [
            {"batch": case.batch, "tokens": case.tokens} | a for case, a in zip(wanted, answers, strict=True)
        ]
    return found


def _with_probe(runtime: Runtime, environment: Path, model: Path, cases: list[Case]) -> Iterator[Result]:
    """A process that dies loses one case; the next process goes on behind it."""
    done = 0
    while done < len(cases):
        path, outputs = write_for_probe(cases[done:], environment)
        lines, ended = _answers(command_of(runtime, environment, model, path), environment)
        for line in lines:
            case, output = cases[done], outputs[line["case"]]
            yield {"error": line["error"]} if "error" in line else _compared(runtime, case, output, line["shape"])
            done += 1
        if done < len(cases) and len(lines) < len(outputs):
            yield {"error": ended}
            done += 1


def _with_tool(runtime: Runtime, environment: Path, model: Path, cases: list[Case]) -> Iterator[Result]:
    import onnxruntime

    output = environment / model.name
    output.unlink(missing_ok=True)
    images = max(cases, key=lambda case: case.batch).images  # quantize_static calibrates with them
    lines, ended = _answers(command_of(runtime, environment, model, output, images), environment)
    error = lines[0].get("error") if lines else ended
    if error is None:
        try:
            session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
        except Exception as failure:  # ONNX Runtime raises many types
            error = f"ONNX Runtime refuses the result: {_line(str(failure))}"
    for case in cases:
        if error is not None:
            yield {"error": error}
            continue
        feeds: dict[str, npt.NDArray[Any]] = {
            "images": np.fromfile(case.images, np.float32).reshape(case.batch, 3, 224, 224)
        }
        if case.elastic:
            feeds["slots"] = np.zeros(case.tokens, np.int32)
        try:
            logits = session.run(["logits"], feeds)[0]
        except Exception as failure:
            yield {"error": f"ONNX Runtime fails in the result: {_line(str(failure))}"}
            continue
        yield _judged(runtime, case, np.asarray(logits, np.float32))


def _answers(command: list[str], folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The probe's lines, and why it ended."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
        )
        out, ended = done.stdout, f"the process ended with code {done.returncode}: {_last_line(done.stderr)}"
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes | None) else error.stdout
        ended = f"no answer within {_LIMIT_S} s"
    # A library may write a line of its own without ending it.
    lines = [line.partition("PROBE ")[2] for line in out.splitlines() if "PROBE " in line]
    return [json.loads(line) for line in lines], ended


def _compared(runtime: Runtime, case: Case, output: Path, shape: list[int]) -> Result:
    logits = np.fromfile(output, np.float32)
    if logits.size != case.expected.size:
        return {"error": f"logits of shape {list(case.expected.shape)} expected, got {shape}"}
    return _judged(runtime, case, logits.reshape(case.expected.shape))


def _judged(runtime: Runtime, case: Case, logits: npt.NDArray[np.float32]) -> Result:
    if not np.isfinite(logits).all():
        return {"error": "logits are not finite"}
    lengths = np.linalg.norm(logits, axis=1) * np.linalg.norm(case.expected, axis=1)
    cosine = float(((logits * case.expected).sum(1) / np.maximum(lengths, 1e-30)).min())
    difference = float((np.abs(logits - case.expected).max(1) / np.abs(case.expected).max(1)).max())
    passed = difference <= _RELATIVE if runtime.precise else cosine >= _COSINE
    return {"difference": difference, "cosine": round(cosine, 6), "passed": passed}


def _line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:300]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
