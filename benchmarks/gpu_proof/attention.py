"""Step ``attention``: is there one fused attention kernel in every block of the engines?"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import EngineJob, build_engines, engine_folder, speed_jobs
from tokfilter.benchmarks.gpu_proof.worker_process import ask
from tokfilter.errors import TokfilterError

__all__ = ["emit_kernels", "fused_attention", "run"]

_FUSED: Final = re.compile(r"f?mha|flash|fused_attention", re.IGNORECASE)
"""In names of NVIDIA's kernels for fused attention: ``fmha_v2_...``, ``_gemm_mha_v2_...``, ``..._flash_fprop_...``."""

_BATCH: Final = 8
_LISTED: Final = 40


def run(context: Context) -> None:
    """Emits a record ``attention`` for the full and the filtered fp16 engine of each model at a batch of 8."""
    plugin = context.has("prepared plugin")
    jobs = [
        job
        for model in context.settings.models
        for job in speed_jobs(context, model.name, [_BATCH], plugin, [model.timed[1]])
    ]
    for job in build_engines(context, jobs):
        emit_kernels(context, job, _BATCH)


def emit_kernels(context: Context, job: EngineJob, batch: int) -> None:
    """Emit a record ``attention`` for an engine at a batch, and every or half of the tokens; or why there is none."""
    model = context.settings.model(job.model)
    tokens = model.patches if job.role == "full" else model.timed[1]
    request = {"directory": str(engine_folder(context, job)), "batch": batch, "tokens": tokens}
    try:
        found = ask(context, "inspect_worker", request)
    except TokfilterError as error:
        context.emit("problem", engine=job.name, error=str(error))
        return
    names = fused_attention(found["kernels"]) or fused_attention(found["layers"])
    context.emit(
        "attention",
        engine=job.name,
        blocks=model.blocks,
        fused=len(names),
        in_every_block=len(names) >= model.blocks,
        names=sorted(set(names))[:_LISTED],
        layers=len(found["layers"]),
        nodes=found["nodes"],
        kernels=[f"{count} x {name}" for name, count in Counter(found["kernels"]).most_common(_LISTED)],
    )


def fused_attention(names: Iterable[str]) -> list[str]:
    """The names of fused attention kernels among names of kernels or layers."""
    return [name for name in names if _FUSED.search(name)]
