"""Step ``speed-MODEL``: full against filtered in fp16, TensorRT with the plugin and CUDA graphs, batch by batch."""

from collections.abc import Sequence

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import (
    EngineJob,
    budgets_of_job,
    build_engines,
    engine_spec,
    speed_jobs,
)
from tokfilter.benchmarks.gpu_proof.rounds import measured_rows
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import Role

__all__ = ["PLUGIN", "run"]

PLUGIN = "TensorRT, plugin"
NATIVE = "TensorRT, native ops"


def run(context: Context, name: str) -> None:
    """Emits ``build``s, ``verdict``s and ``row``s. Where the plugin does not build, native ops do, by that name.

    Raises EngineError where no engine was built.
    """
    model = context.settings.model(name)
    built = build_engines(context, speed_jobs(context, name, context.settings.batches, context.has("prepared plugin")))
    lacking = [batch for batch in context.settings.batches if not _of(built, batch, "filtered")]
    if lacking:
        native = [job for job in speed_jobs(context, name, lacking, plugin=False) if job.role == "filtered"]
        built += build_engines(context, native)
    if not built:
        raise EngineError(f"no engine of {name} was built: see the builds.")
    for batch in context.settings.batches:
        plugin = any(job.plugin for job in _of(built, batch, "filtered"))
        jobs = [*_of(built, batch, "full"), *_of(built, batch, "filtered")]
        label = PLUGIN if plugin else NATIVE
        wanted = [(engine_spec(context, job, label), budgets_of_job(context, job, model.timed)) for job in jobs]
        measured_rows(context, model, batch, wanted, reference="")


def _of(jobs: Sequence[EngineJob], batch: int, role: Role) -> list[EngineJob]:
    return [job for job in jobs if (job.batch[0], job.role) == (batch, role)]
