"""Step ``sanitizer``: compute-sanitizer's memcheck on the plugin inside TensorRT, several budgets."""

import re
from typing import Final

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import (
    EngineJob,
    budgets_of_job,
    build_engines,
    check_all,
    engine_budgets,
    engine_folder,
)
from tokfilter.benchmarks.gpu_proof.worker_process import WorkerError, ask
from tokfilter.errors import EngineError

__all__ = ["errors_from_output", "run"]

# Calls of the driver's API that fail on purpose, to find out what there is, are no errors of memory. A kernel with an
# error ends, and not the context, in which every later call would fail.
_OPTIONS: Final = ("--tool", "memcheck", "--report-api-errors", "no", "--destroy-on-device-error", "kernel")
_SUMMARY: Final = re.compile(r"ERROR SUMMARY: (\d+) errors?")


def run(context: Context, name: str) -> None:
    """Emits a record ``memcheck`` with the number of errors.

    Raises EngineError where the tool reports no summary, where a worker fails without errors, or an engine is missing.
    """
    context.need("prepared plugin", "compute-sanitizer")
    budgets = context.settings.model(name).compared
    jobs = [EngineJob(name, "filtered", "fp16", (1, 1, 1), True, k) for k in engine_budgets(context, "fp16", budgets)]
    built = build_engines(context, jobs)
    tool = [str(context.found["compute-sanitizer"]["found"]), *_OPTIONS]
    for job in built:
        served = budgets_of_job(context, job, budgets)
        request = {"directory": str(engine_folder(context, job)), "batch": 1, "budgets": served}
        # Loading only the kernels that run keeps the tool from instrumenting all of TensorRT.
        try:
            output, failure = ask(context, "verify_worker", request, tool, CUDA_MODULE_LOADING="LAZY")["output"], None
        except WorkerError as error:  # what memcheck found may be the reason
            output, failure = error.output, error
        if failure is not None and not _SUMMARY.search(output):
            raise failure
        errors = errors_from_output(output)
        context.emit("memcheck", engine=job.name, errors=errors, budgets=served, report=_report(output))
        if failure is not None and not errors:
            raise failure
    check_all(jobs, built)


def errors_from_output(output: str) -> int:
    """The number in compute-sanitizer's last line. Raises EngineError where there is none."""
    found = _SUMMARY.findall(output)
    if not found:
        raise EngineError("compute-sanitizer gave no summary: its output has no line ERROR SUMMARY.")
    return int(found[-1])


def _report(output: str) -> list[str]:
    """The first lines of the tool's report."""
    return [line for line in output.splitlines() if line.startswith("=========")][:20]
