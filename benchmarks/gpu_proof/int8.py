"""Step ``int8-MODEL``: int8 by Q/DQ nodes beside fp16 in TensorRT, every token and half of them, in the same rounds."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tokfilter.benchmarks.gpu_proof.attention import emit_kernels
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import EngineJob, budgets_of_job, engine_spec
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs, ensure_int8_graphs
from tokfilter.benchmarks.gpu_proof.rounds import measured_rows
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec
from tokfilter.benchmarks.gpu_proof.speed import built_engines, ops_of
from tokfilter.errors import EngineError

__all__ = ["run"]

_BATCHES: Final = (8, 32)


def run(context: Context, name: str) -> None:
    """Emits ``build``s, ``verdict``s, ``row``s that compare with fp16, and the kernels of the int8 engines.

    The graphs are calibrated while fp16 engines that are not there yet are built. Where the plugin does not build in an
    int8 graph, native ops do, at that batch and by that name. Raises EngineError where no filtered int8 engine was
    built.
    """
    model = context.settings.model(name)
    half = [model.timed[1]]
    batches = [batch for batch in context.settings.batches if batch in _BATCHES] or list(context.settings.batches)
    ensure_graphs(context, name)
    with ThreadPoolExecutor(1) as pool:
        exported = pool.submit(ensure_int8_graphs, context, name)
        if context.settings.dry_run:
            exported.result()  # before the device is needed
        fp16 = built_engines(context, name, batches, half)
        exported.result()
    int8 = built_engines(context, name, batches, half, "int8")
    if not any(job.role == "filtered" for job in int8):
        raise EngineError(f"no filtered int8 engine of {name} was built: see the builds.")
    for batch in batches:
        _measured(context, model, batch, *([job for job in jobs if job.batch[0] == batch] for jobs in (fp16, int8)))
    for job in int8:
        if job.batch[0] == batches[0]:
            emit_kernels(context, job, batches[0])


def _measured(
    context: Context, model: ModelSpec, batch: int, fp16: Sequence[EngineJob], int8: Sequence[EngineJob]
) -> None:
    """The engines of one batch in the same rounds."""
    reference = _label(fp16, "fp16")
    wanted = [
        (engine_spec(context, job, _label(jobs, job.precision)), budgets_of_job(context, job, [model.timed[1]]))
        for jobs in (fp16, int8)
        for job in jobs
    ]
    measured_rows(context, model, batch, wanted, reference)


def _label(jobs: Sequence[EngineJob], precision: str) -> str:
    """Name in tables of the engines of a batch in a precision."""
    return ops_of(jobs) if precision == "fp16" else f"{ops_of(jobs)}, {precision}"
