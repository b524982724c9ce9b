"""Step ``native``: the plugin's engine against native TopK and Gather, fp16, in the same rounds."""

from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import EngineJob, build_engines, engine_spec, graph_of_job, speed_jobs
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs
from tokfilter.benchmarks.gpu_proof.rounds import measured_rows
from tokfilter.benchmarks.gpu_proof.speed import NATIVE, PLUGIN
from tokfilter.errors import TokfilterError
from tokfilter.trt.module import name_and_version, tensorrt_module
from tokfilter.trt.network import Network

__all__ = ["parse_by_rtx", "run"]


def run(context: Context, name: str) -> None:
    """Emits ``build``s, ``verdict``s, and ``row``s that compare with the native engine."""
    if not context.settings.dry_run:
        context.need("prepared plugin")
    model, batches = context.settings.model(name), context.settings.batches
    half = model.timed[1]
    native, plugin = (
        [job for job in speed_jobs(context, name, batches, plugin, [half]) if job.role == "filtered"]
        for plugin in (False, True)
    )
    if context.settings.dry_run:
        ensure_graphs(context, name)
        parse_by_rtx(context, native[0])
    built = build_engines(context, [*native, *plugin])
    for batch in batches:
        wanted = [
            (engine_spec(context, job, PLUGIN if job.plugin else NATIVE), [half])
            for job in built
            if job.batch[0] == batch
        ]
        measured_rows(context, model, batch, wanted, reference=NATIVE)


def parse_by_rtx(context: Context, job: EngineJob) -> None:
    """Parse the native graph with TensorRT-RTX, which needs no GPU; emits a record ``parsed``, or the error."""
    try:
        module = tensorrt_module("tensorrt-rtx")
        network = Network(module)
        network.parse(graph_of_job(context, job)[0])
    except TokfilterError as error:
        context.emit("problem", engine=job.name, error=str(error))
    else:
        context.emit("parsed", engine=job.name, by=name_and_version(module), layers=network.definition.num_layers)
