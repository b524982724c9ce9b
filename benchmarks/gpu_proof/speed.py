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
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import Role

__all__ = ["NATIVE", "PLUGIN", "built_engines", "ops_of", "run"]

PLUGIN = "TensorRT, plugin"
NATIVE = "TensorRT, native ops"


def run(context: Context, name: str) -> None:
    """Emits ``build``s, ``verdict``s and ``row``s. Where the plugin does not build, native ops do, by that name.

    Raises EngineError where no filtered engine was built.
    """
    model, found = context.settings.model(name), False
    for batches in _groups(context, name):
        built = built_engines(context, name, batches)
        for batch in batches:
            _measured(context, model, batch, [job for job in built if job.batch[0] == batch])
        found = found or any(job.role == "filtered" for job in built)
    if not found:
        raise EngineError(f"no filtered engine of {name} was built: see the builds.")


def built_engines(
    context: Context,
    name: str,
    batches: Sequence[int],
    budgets: Sequence[int] | None = None,
    precision: str = "fp16",
) -> list[EngineJob]:
    """The full and filtered engines that build. Where the plugin does not build at a batch, native ops do there."""
    plugin = context.has("prepared plugin")
    built = build_engines(context, speed_jobs(context, name, batches, plugin, budgets, precision))
    if lacking := [batch for batch in batches if plugin and not _of(built, batch, "filtered")]:
        native = speed_jobs(context, name, lacking, False, budgets, precision)
        built += build_engines(context, [job for job in native if job.role == "filtered"])
    return built


def ops_of(jobs: Sequence[EngineJob]) -> str:
    """Name in tables of the engines of a batch: the plugin may build at one batch and not at another."""
    return PLUGIN if any(job.plugin for job in jobs) else NATIVE


def _groups(context: Context, name: str) -> list[Sequence[int]]:
    """Batch sizes whose engines are built at the same time, as many as there are builders for.

    A group is measured before the next one is built, so that a step that is stopped has the rows of the first ones.
    """
    batches = context.settings.batches
    engines = len(speed_jobs(context, name, batches[:1], context.has("prepared plugin")))
    size = max(1, context.settings.builders // engines)
    return [batches[i : i + size] for i in range(0, len(batches), size)]


def _measured(context: Context, model: ModelSpec, batch: int, built: Sequence[EngineJob]) -> None:
    if not built:
        return
    jobs = [*_of(built, batch, "full"), *_of(built, batch, "filtered")]
    label = ops_of(jobs)
    wanted = [(engine_spec(context, job, label), budgets_of_job(context, job, model.timed)) for job in jobs]
    measured_rows(context, model, batch, wanted, reference="")


def _of(jobs: Sequence[EngineJob], batch: int, role: Role) -> list[EngineJob]:
    return [job for job in jobs if (job.batch[0], job.role) == (batch, role)]
