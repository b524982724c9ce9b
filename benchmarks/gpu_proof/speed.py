"""Step ``speed-MODEL``: full against filtered in fp16, TensorRT with the plugin and CUDA graphs, batch by batch."""

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import EngineJob, build_engines, engine_spec, speed_jobs
from tokfilter.benchmarks.gpu_proof.rounds import measured_rows
from tokfilter.errors import EngineError

__all__ = ["PLUGIN", "run"]

PLUGIN = "TensorRT, plugin"
NATIVE = "TensorRT, native ops"


def run(context: Context, name: str) -> None:
    """Emits ``build``s, ``verdict``s and ``row``s. Without a plugin library, native ops take its place, by that name.

    Raises EngineError where no engine was built.
    """
    model = context.settings.model(name)
    plugin = context.has("prepared plugin")
    built = build_engines(context, speed_jobs(name, context.settings.batches, plugin))
    if not built:
        raise EngineError(f"no engine of {name} was built: see the builds.")
    for batch in context.settings.batches:
        jobs = [job for job in built if job.batch[0] == batch]
        wanted = [
            (engine_spec(context, job, f"{PLUGIN if plugin else NATIVE}, {job.role}"), _budgets(context, job))
            for job in jobs
        ]
        measured_rows(context, model, batch, wanted, reference="")


def _budgets(context: Context, job: EngineJob) -> list[int]:
    model = context.settings.model(job.model)
    return [model.patches] if job.role == "full" else model.timed
