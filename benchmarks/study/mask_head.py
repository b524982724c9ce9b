"""mask_head.json: time and peak memory of the mask head, Up(Q . F), against the dense form, Q . Up(F).

    python -m tokfilter.benchmarks mask-head
    python -m tokfilter.benchmarks mask-head --device cuda --precision fp16 --batch 8

Both forms get the same tokens and weights, and give masks of the size of the image. Their outputs are compared before
they are timed, in turn, in one process. Peak memory is what a fresh process takes on top of weights and tokens in one
call: resident memory on a CPU, allocated memory on a GPU.
"""

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, Literal, get_args

import click
import torch
from torch import Tensor

from tokfilter.artifacts.mask_config import MaskHeadConfig
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish, threads_option
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.errors import VerificationError
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.memory import host_peak_bytes
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import speedup_from_pairs
from tokfilter.vit.dense.mask_head import MaskHead, masks_from_upsampled_features

__all__ = ["GOALS", "RESULT", "HeadCase", "main", "measure"]

RESULT: Final = RESULTS / "mask_head.json"
GOALS: Final = {"time": 2.0, "memory": 4.0}
"""Dense over token space, at 512 x 512 pixels and 21 masks."""

Clock = Literal["wall", "cpu"]

_TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TOLERANCES: Final = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference over the largest logit; the forms round at other places."""


@dataclass(frozen=True)
class HeadCase:
    """What is measured.

    image, patch: side of the image and of a patch, in pixels; the masks have the size of the image
    channels, width: C of the tokens, D of the head
    """

    image: int = 512
    patch: int = 16
    masks: int = 21
    channels: int = 384
    width: int = 256
    batch: int = 1
    align_corners: bool = False
    device: str = "cpu"
    precision: str = "fp32"


def measure(case: HeadCase, rounds: int, threads: int | None = None, clock: Clock = "wall") -> dict[str, Any]:
    """One row. Raises VerificationError where the forms give other masks.

    clock: wall, or cpu: the time of this process on the processor, which other processes of a shared machine do not
        lengthen; with one thread both are the same on an idle machine
    """
    forms = _forms(case)
    with torch.inference_mode():
        difference = _difference(case, forms)
        seconds = {name: list[float]() for name in forms}
        for _ in range(rounds):
            for name, run in forms.items():
                seconds[name].append(_timed(run, case.device, process_time if clock == "cpu" else perf_counter))
    peaks = {name: _peak_in_new_process(case, name, threads) for name in forms}
    speedup = speedup_from_pairs(seconds["dense"], seconds["tokens"])
    memory = peaks["dense"] / max(1, peaks["tokens"])
    return {
        **asdict(case),
        "threads": torch.get_num_threads(),
        "clock": clock,
        "rounds": rounds,
        "difference": difference,
        "ms": {name: 1e3 * sorted(values)[rounds // 2] for name, values in seconds.items()},
        "peak_bytes": peaks,
        "speedup": asdict(speedup),
        "memory_ratio": memory,
        "goals": GOALS if _has_goal(case) else None,
        "reached": speedup.value >= GOALS["time"] and memory >= GOALS["memory"] if _has_goal(case) else None,
    }


def _has_goal(case: HeadCase) -> bool:
    return (case.image, case.masks) == (512, 21)


def _forms(case: HeadCase) -> dict[str, Callable[[], Tensor]]:
    """Both forms as functions that return masks [B, M, H, W]."""
    torch.manual_seed(0)
    grid, size = (case.image // case.patch,) * 2, (case.image,) * 2
    config = MaskHeadConfig(case.masks, size, case.width, align_corners=case.align_corners)
    place: dict[str, Any] = {"device": case.device, "dtype": _TYPES[case.precision]}
    head = MaskHead(case.channels, grid, config).to(**place).eval()
    tokens = torch.randn(case.batch, grid[0] * grid[1], case.channels).to(**place)

    def dense() -> Tensor:
        return masks_from_upsampled_features(head.features(tokens), head.queries, grid, size, case.align_corners)

    return {"tokens": lambda: head(tokens, None, tokens), "dense": dense}


def _difference(case: HeadCase, forms: Mapping[str, Callable[[], Tensor]]) -> float:
    found, expected = (forms[name]().float() for name in ("tokens", "dense"))
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference > _TOLERANCES[case.precision]:
        raise VerificationError(
            f"the forms differ by {difference:.2g} of the largest logit, more than {_TOLERANCES[case.precision]:g}, so "
            "they are not timed."
        )
    return difference


def _timed(run: Callable[[], Tensor], device: str, now: Callable[[], float]) -> float:
    begun = now()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - begun


def _peak_in_new_process(case: HeadCase, form: str, threads: int | None) -> int:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_peak, case, form, threads).result()


@torch.inference_mode()
def _peak(case: HeadCase, form: str, threads: int | None) -> int:
    """Bytes that one call takes on top of weights and tokens, in a process of its own."""
    if threads is not None:
        torch.set_num_threads(threads)
    small = HeadCase(**{**asdict(case), "image": 2 * case.patch})
    _forms(small)[form]()  # loads the libraries' kernels and starts their threads
    run = _forms(case)[form]
    if case.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    before = _resident_bytes()
    run()
    return host_peak_bytes() - before


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def _line(row: Mapping[str, Any]) -> str:
    ms, peaks, speedup = row["ms"], row["peak_bytes"], row["speedup"]
    return (
        f"{row['image']} x {row['image']}, {row['masks']} masks, batch {row['batch']}: dense {ms['dense']:.1f} ms, "
        f"{peaks['dense'] / 1e6:.0f} MB; in token space {ms['tokens']:.1f} ms, {peaks['tokens'] / 1e6:.0f} MB: "
        f"{speedup['value']:.1f} ({speedup['low']:.1f} to {speedup['high']:.1f}) times less time, "
        f"{row['memory_ratio']:.1f} times less memory"
    )


@click.command()
@click.option(
    "--image", type=click.IntRange(min=1), multiple=True, default=(512,), show_default=True, help="Repeatable."
)
@click.option(
    "--masks", type=click.IntRange(min=1), multiple=True, default=(21, 150), show_default=True, help="Repeatable."
)
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1,), show_default=True, help="Repeatable.")
@click.option(
    "--width", type=click.IntRange(min=1), default=HeadCase.width, show_default=True, help="Channels of the head."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(sorted(_TYPES)), default="fp32", show_default=True)
@click.option(
    "--clock",
    type=click.Choice(get_args(Clock)),
    default="wall",
    show_default=True,
    help="cpu: this process's time on the processor, for one thread on a shared machine.",
)
@click.option("--rounds", type=click.IntRange(min=2), default=15, show_default=True)
@threads_option(None, "Of PyTorch. Default: its own choice.")
@output_option(RESULT)
@json_option
def main(
    image: tuple[int, ...],
    masks: tuple[int, ...],
    batch: tuple[int, ...],
    width: int,
    device: str,
    precision: str,
    clock: Clock,
    rounds: int,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Measure the mask head against its dense form. Exit code 1 where a row is below its goals."""
    if threads is not None:
        torch.set_num_threads(threads)
    before = conditions()
    cases = [
        HeadCase(side, masks=count, batch=size, width=width, device=device, precision=precision)
        for side in image
        for count in masks
        for size in batch
    ]
    if clock == "cpu" and (threads != 1 or device != "cpu"):
        raise click.UsageError("--clock cpu is for one thread on a CPU: add --threads 1.")
    rows = [measure(case, rounds, threads, clock) for case in cases]
    state = {"before": before, "after": conditions()}
    document = {**header("mask-head", command_line()), "conditions": state, "rows": rows}
    publish(document, output, as_json, map(_line, rows))
    sys.exit(1 if any(row["reached"] is False for row in rows) else 0)
