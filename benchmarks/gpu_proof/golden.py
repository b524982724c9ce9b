"""Step ``golden``: the plugin inside TensorRT against torch's golden tensors: fp32, fp16, few and all tokens."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import (
    EngineJob,
    budgets_of_job,
    build_engines,
    check_all,
    engine_budgets,
    engine_spec,
)
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs
from tokfilter.errors import TokfilterError, VerificationError
from tokfilter.runtime.comparison.processes import EngineProcess

__all__ = ["compared", "run"]

_BATCHES: Final = (1, 8)


def run(context: Context) -> None:
    """Build and compare, each engine as soon as it is built, while the next model is exported; emits ``verdict``s.

    Raises EngineError at the end where an engine was not compared.
    """
    context.need("prepared plugin")
    first, *others = [model.name for model in context.settings.models]
    asked: list[EngineJob] = []
    answered: list[EngineJob] = []

    def compare(job: EngineJob) -> None:
        budgets = budgets_of_job(context, job, context.settings.model(job.model).compared)
        batches = [batch for batch in _BATCHES if job.batch[0] <= batch <= job.batch[2]]
        try:
            # CUDA graphs are captured, as they will be for the times.
            with EngineProcess(engine_spec(context, job)) as engine:
                compared(context, engine, [(batch, k) for batch in batches for k in budgets])
            answered.append(job)
        except TokfilterError as error:
            context.emit("problem", engine=job.name, error=str(error))

    def build(model: str) -> None:
        jobs = _jobs(context, model)
        asked.extend(jobs)
        build_engines(context, jobs, compare)

    with ThreadPoolExecutor(1) as pool:
        exported = [pool.submit(ensure_graphs, context, name) for name in others]
        build(first)
        for name, graphs in zip(others, exported, strict=True):
            graphs.result()
            build(name)
    check_all(asked, answered)


def _jobs(context: Context, model: str) -> list[EngineJob]:
    """fp32 at a range of batches and budgets; fp16 at a batch of 8 and of 1, where budgets may need an engine each."""
    budgets = engine_budgets(context, "fp16", context.settings.model(model).compared)
    return [
        *(EngineJob(model, "filtered", "fp16", (8, 8, 8), True, tokens) for tokens in budgets),
        EngineJob(model, "filtered", "fp32", (1, 8, 8), plugin=True),
        *(EngineJob(model, "filtered", "fp16", (1, 1, 1), True, tokens) for tokens in budgets),
    ]


def compared(context: Context, engine: EngineProcess, cases: Iterable[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Compare an engine with the golden tensors at each (batch, tokens). Emits ``verdict``s; returns what passed."""
    passed = []
    for batch, tokens in cases:
        precision = engine.spec.options.precision
        record = {"engine": engine.spec.key, "precision": precision, "batch": batch, "tokens": tokens}
        try:
            verdict = engine.verify(batch, tokens)
        except VerificationError as error:
            context.emit("verdict", **record, passed=False, error=str(error))
            continue
        figures = {name: verdict[name] for name in ("compared", "largest_difference", "tolerance", "cosine")}
        same = {name: verdict[name] for name in ("same_top1", "same_indices")}
        context.emit("verdict", **record, passed=True, error=None, **figures, **same)
        passed.append((batch, tokens))
    return passed
