"""Test cases of the CUDA kernel, with the outputs of ``kernels/reference.py``.

``tests/tools/kernel_checks/check_cases.cpp`` reads them as a stream: 16 little-endian int64 (the fields of
:class:`KernelCase` except ``scores``), then tokens, scores, expected selected, expected indices.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokfilter.errors import EngineError
from tokfilter.kernels.op import ORDERS
from tokfilter.kernels.reference import SCORE_TYPES, token_select

__all__ = ["KernelCase", "Tensors", "awkward_cases", "random_cases", "run_cases", "stream_of", "tensors_of"]

ScoreKind = Literal["normal", "sigmoid", "ties", "constant", "special", "bits"]
_SCORE_KINDS: Final[tuple[ScoreKind, ...]] = get_args(ScoreKind)

_PAYLOADS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_SPECIAL: Final = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-7, -1e-7, 1.0, -1.0], np.float32)


@dataclass(frozen=True)
class KernelCase:
    """One call of the kernel and how it is run; the four offsets misalign a buffer by that many bytes."""

    batch: int
    prefix_tokens: int
    num_patches: int
    channels: int
    k: int
    element_size: int = 2
    score_type: int = 0
    order: int = 0
    with_indices: int = 1
    multiprocessors: int = 16
    schedule: int = 0
    seed: int = 0
    tokens_offset: int = 0
    scores_offset: int = 0
    selected_offset: int = 0
    indices_offset: int = 0
    scores: ScoreKind = "normal"


@dataclass(frozen=True)
class Tensors:
    """Inputs and expected outputs.

    tokens: [B, P+N, C], unsigned integers of the payload's size
    scores: [B, N], float32, float16, or the bits of bfloat16 as uint16
    selected: [B, P+k, C]
    indices: [B, k] int32
    """

    tokens: NDArray[Any]
    scores: NDArray[Any]
    selected: NDArray[Any]
    indices: NDArray[np.int32]


def _float32_scores(case: KernelCase, rng: np.random.Generator) -> NDArray[np.float32]:
    shape = (case.batch, case.num_patches)
    if case.scores == "constant":
        return np.full(shape, rng.choice(_SPECIAL), np.float32)
    if case.scores == "special":
        return rng.choice(_SPECIAL, shape)
    if case.scores == "bits":
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    normal = rng.standard_normal(shape, dtype=np.float32)
    if case.scores == "sigmoid":
        return (1 / (1 + np.exp(-normal))).astype(np.float32)
    return np.round(normal * 2) if case.scores == "ties" else normal


def tensors_of(case: KernelCase) -> Tensors:
    """The case's tensors, drawn from its seed, and the outputs of the reference."""
    rng = np.random.default_rng(case.seed)
    payload = _PAYLOADS[case.element_size]
    shape = (case.batch, case.prefix_tokens + case.num_patches, case.channels)
    tokens = np.frombuffer(rng.bytes(int(np.prod(shape)) * case.element_size), payload).reshape(shape)
    scores: NDArray[Any] = _float32_scores(case, rng)
    widened = scores
    if SCORE_TYPES[case.score_type] == "float16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scores = widened = scores.astype(np.float16)
    elif SCORE_TYPES[case.score_type] == "bfloat16":
        # Truncated, not rounded: any bits are valid. A NaN may become an infinity, which is also a test.
        scores = (scores.view(np.uint32) >> 16).astype(np.uint16)
        widened = (scores.astype(np.uint32) << 16).view(np.float32)
    selected, indices = token_select(tokens, widened, case.k, case.prefix_tokens, ORDERS[case.order])
    return Tensors(tokens, scores, selected, indices)


def stream_of(case: KernelCase) -> bytes:
    """One case in the format that ``check_cases`` reads."""
    tensors = tensors_of(case)
    header = np.array(astuple(case)[:-1], "<i8")
    arrays = (tensors.tokens, tensors.scores, tensors.selected, tensors.indices)
    return header.tobytes() + b"".join(array.tobytes() for array in arrays)


def _with_random_run(case: KernelCase, rng: np.random.Generator) -> KernelCase:
    score_type = int(rng.integers(3))
    element_size = int(rng.choice([1, 2, 4]))
    return replace(
        case,
        element_size=element_size,
        score_type=score_type,
        order=int(rng.integers(2)),
        with_indices=int(rng.integers(4) > 0),
        schedule=int(rng.integers(3)),
        seed=int(rng.integers(2**31)),
        tokens_offset=element_size * int(rng.choice([0, 0, 1, 2, 3])),
        selected_offset=element_size * int(rng.choice([0, 0, 1, 2, 3])),
        scores_offset=(4 if score_type == 0 else 2) * int(rng.choice([0, 1])),
        indices_offset=4 * int(rng.choice([0, 1])),
        scores=_SCORE_KINDS[int(rng.integers(len(_SCORE_KINDS)))],
    )


def random_cases(count: int, seed: int = 0) -> Iterator[KernelCase]:
    """Cases of every type, order, score kind and alignment; most have as few patches as a ViT at low resolution."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        most = int(rng.choice([256, 1024, 4096, 8192], p=[0.83, 0.15, 0.015, 0.005]))
        num_patches = max(1, int(most ** rng.uniform(0.3, 1.0)))
        small = most <= 256
        k = (
            int(rng.choice([1, num_patches, int(rng.integers(1, num_patches + 1))]))
            if small
            else int(rng.integers(1, 300))
        )
        case = KernelCase(
            batch=int(rng.choice([1, 2, 3])) if small else 1,
            prefix_tokens=int(rng.choice([0, 1, 1, 2, 5])),
            num_patches=num_patches,
            channels=int(64 ** rng.uniform(0.0, 1.0)) if small else int(rng.integers(1, 9)),
            k=min(k, num_patches),
            multiprocessors=int(rng.choice([1, 2])) if small else 1,
        )
        yield _with_random_run(case, rng)


def awkward_cases() -> Iterator[KernelCase]:
    """Sizes around every power of two at which the kernel takes another code path."""
    rng = np.random.default_rng(1)
    for num_patches in (
        1,
        2,
        31,
        32,
        33,
        63,
        64,
        65,
        196,
        255,
        256,
        257,
        1023,
        1024,
        1025,
        4095,
        4096,
        4097,
        8191,
        8192,
    ):
        budgets = {1, 2, num_patches // 2, num_patches - 1, num_patches} if num_patches < 1025 else {2, 150}
        for k in sorted(budgets & set(range(1, num_patches + 1))):
            # Two channels keep the largest cases short; other channel counts are tested below.
            case = KernelCase(1, int(rng.integers(3)), num_patches, channels=2, k=k, multiprocessors=1)
            yield replace(_with_random_run(case, rng), order=k % 2)
    yield _with_random_run(KernelCase(1, 1, 8192, 1, 8192, multiprocessors=1), rng)
    for channels in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 128, 129, 383, 384, 385, 768, 1025, 4096):
        for batch in (1, 2):
            yield _with_random_run(KernelCase(batch, 1, 12, channels, 5), rng)
    for prefix in (0, 1, 7, 8, 9, 127, 128, 129, 300):  # the last ones fill whole blocks with prefix rows only
        yield _with_random_run(KernelCase(2, prefix, 20, 3, 7, multiprocessors=1), rng)
    for score_type in range(3):
        for order in range(2):
            for scores in _SCORE_KINDS:
                case = KernelCase(2, 1, 300, 4, 150, score_type=score_type, order=order, scores=scores)
                yield replace(case, multiprocessors=3, seed=score_type)


def run_cases(command: Sequence[str | Path], cases: Iterable[KernelCase]) -> list[dict[str, Any]]:
    """Run a program of ``tests/tools/kernel_checks`` on the cases, in two processes. Returns one record per case.

    command: the program, after a tool that runs it, if any
    A record has the ``difference`` from the expected outputs, "" if there is none; ``check_cases`` adds memory traffic.
    Raises EngineError if the program ends early: a crash, or a sanitizer's report.
    """
    listed = list(cases)
    parts = (listed[0::2], listed[1::2])

    def run(part: Sequence[KernelCase]) -> list[dict[str, Any]]:
        stream = b"".join(map(stream_of, part))
        result = subprocess.run(command, input=stream, capture_output=True, check=False)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        failed = any(line["difference"] for line in lines)
        if len(lines) != len(part) or result.returncode != int(failed):
            at = part[len(lines)] if len(lines) < len(part) else "the end"
            raise EngineError(
                f"{command[-1]} ended with status {result.returncode} at {at}:\n{result.stderr.decode()[:4000]}"
            )
        return lines

    with ThreadPoolExecutor(len(parts)) as jobs:
        records = list(jobs.map(run, parts))
    return [records[at % 2][at // 2] for at in range(len(listed))]
