"""Step ``engines-MODEL``: what users run today, in the same rounds as TensorRT: PyTorch and ONNX Runtime, fp16."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import graphs_of
from tokfilter.benchmarks.gpu_proof.engine_jobs import build_engines, engine_spec, speed_jobs
from tokfilter.benchmarks.gpu_proof.prepare import bundle_of, ensure_graphs
from tokfilter.benchmarks.gpu_proof.rounds import measured_rows, opened
from tokfilter.benchmarks.gpu_proof.speed import NATIVE, PLUGIN
from tokfilter.errors import MissingDependencyError
from tokfilter.runtime.comparison.processes import EngineSpec
from tokfilter.runtime.model_files import Role, find_entry
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["EAGER", "run"]

EAGER = "PyTorch eager"
_TORCH = {
    EAGER: SessionOptions(runtime="torch", precision="fp16", provider="cuda"),
    "PyTorch compiled": SessionOptions(runtime="torch", precision="fp16", provider="cuda", torch_compile=True),
    "PyTorch compiled, CUDA graph": SessionOptions(
        runtime="torch", precision="fp16", provider="cuda", torch_compile=True, cuda_graph=True
    ),
}
_ONNX = {
    "ONNX Runtime": SessionOptions(precision="fp16", provider="cuda"),
    "ONNX Runtime, CUDA graph": SessionOptions(precision="fp16", provider="cuda", cuda_graph=True),
}
_ROLES: tuple[Role, ...] = ("full", "filtered")


def run(context: Context, name: str) -> None:
    """Emits ``verdict``s and ``row``s that compare with PyTorch eager. Engines that cannot run are reported."""
    model = context.settings.model(name)
    ensure_graphs(context, name)
    others = list(_others(context, name))
    context.device(f"a CUDA context for {', '.join(dict.fromkeys(s.key.rsplit(', ', 1)[0] for s in others))}")
    plugin = context.has("prepared plugin")
    try:
        built = build_engines(context, speed_jobs(context, name, context.settings.batches, plugin, [model.timed[1]]))
    except MissingDependencyError as error:  # the others can still be compared
        context.emit("problem", engine="TensorRT", error=str(error))
        built = []
    label = PLUGIN if plugin else NATIVE
    with ExitStack() as stack:
        running = opened(context, others, stack)
        for batch in context.settings.batches:
            specs = [engine_spec(context, job, label) for job in built if job.batch[0] == batch]
            asked = [*specs, *(engine.spec for engine in running.values())]
            wanted = [(s, [model.patches if s.role == "full" else model.timed[1]]) for s in asked]
            measured_rows(context, model, batch, wanted, EAGER, running)


def _others(context: Context, name: str) -> Iterator[EngineSpec]:
    """PyTorch and ONNX Runtime, where this machine has them; emits the reason where not."""
    folder, bundle = graphs_of(context.settings, name), bundle_of(context.settings, name)
    dry = context.settings.dry_run
    for part, title in (("torch", "PyTorch"), ("onnxruntime", "ONNX Runtime")):
        missing = context.found[part].get("missing")
        if missing is not None:
            context.emit("problem", engine=title, error=str(missing))
    for role in _ROLES:
        if dry or context.has("torch"):
            for title, options in _TORCH.items():
                given = replace(options, bundle=str(bundle))
                yield EngineSpec(folder, role, f"{bundle.name} ({role})", given, name=f"{title}, {role}")
        if dry or context.has("onnxruntime"):
            path = find_entry(load_manifest(folder), role, "onnx", "fp16", provider="cuda").path
            for title, options in _ONNX.items():
                yield EngineSpec(folder, role, path, options, name=f"{title}, {role}")
