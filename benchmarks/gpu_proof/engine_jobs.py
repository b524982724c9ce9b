"""Engines: which graph, for which shapes, with or without the plugin; built by workers in TensorRT's Python.

An engine serves one batch size: TensorRT selects kernels for one shape of a profile, so a range of batches would cost
speed. In TensorRT 10 and later the filtered one serves every budget from 37 tokens on, and one build per batch serves
four rows. TensorRT 8.6 has no fp16 kernels for a range of tokens (docs/gpu.md): there each budget has its own engine.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Final

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.manifest import GOLDEN_FILE, Entry, Range, entry_from_file, load_manifest, save_manifest
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_graphs import engine_graph, graphs_of, tensorrt_version
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs, ensure_int8_graphs, graphs_key
from tokfilter.benchmarks.gpu_proof.worker_process import ask
from tokfilter.errors import EngineError, TokfilterError
from tokfilter.runtime.comparison.processes import EngineSpec
from tokfilter.runtime.model_files import Role
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.trt.versions import way_of

__all__ = [
    "EngineJob",
    "budgets_of_job",
    "build_engines",
    "check_all",
    "engine_budgets",
    "engine_folder",
    "engine_spec",
    "graph_of_job",
    "speed_jobs",
]

_CACHE: Final = "timing.cache"

Graph = tuple[Path, tuple[str, ...]]
"""An ONNX file, and the nodes whose layers stay in fp32."""


@dataclass(frozen=True)
class EngineJob:
    """An engine to be built.

    batch: (min, opt, max)
    plugin: whether the node TokenSelect is the plugin's; else native TopK and Gather. A full model has neither
    tokens: the one budget of a filtered engine; None for every budget from 37 tokens on
    """

    model: str
    role: Role
    precision: str
    batch: Range
    plugin: bool = False
    tokens: int | None = None

    @property
    def name(self) -> str:
        """Its folder."""
        batch = "-".join(map(str, sorted(set(self.batch))))
        kind = "full" if self.role == "full" else f"filtered.{'plugin' if self.plugin else 'native'}"
        budget = "" if self.tokens is None else f".k{self.tokens}"
        return f"{self.model}.{kind}.{self.precision}.b{batch}{budget}"


def speed_jobs(
    context: Context,
    model: str,
    batches: Iterable[int],
    plugin: bool = True,
    budgets: Sequence[int] | None = None,
    precision: str = "fp16",
) -> list[EngineJob]:
    """Engines of the full and the filtered model for each batch.

    budgets: that the filtered ones serve; None for those that are timed
    """
    wanted = engine_budgets(context, precision, context.settings.model(model).timed if budgets is None else budgets)
    return [
        job
        for batch in batches
        for job in (
            EngineJob(model, "full", precision, (batch, batch, batch)),
            *(EngineJob(model, "filtered", precision, (batch, batch, batch), plugin, tokens) for tokens in wanted),
        )
    ]


def engine_budgets(context: Context, precision: str, budgets: Iterable[int]) -> list[int | None]:
    """The ``tokens`` of the filtered engines that serve ``budgets``: one each, or one engine for all."""
    module = SimpleNamespace(__name__="tensorrt", __version__=tensorrt_version(context.found))
    separate = precision != "fp32" and way_of(module).precision == "layers"
    return list(dict.fromkeys(budgets)) if separate else [None]


def budgets_of_job(context: Context, job: EngineJob, budgets: Sequence[int]) -> list[int]:
    """The budgets among ``budgets`` that the engine of a job serves."""
    if job.role == "full":
        return [context.settings.model(job.model).patches]
    return [tokens for tokens in budgets if job.tokens in (None, tokens)]


def engine_spec(context: Context, job: EngineJob, name: str = "", cuda_graph: bool = True) -> EngineSpec:
    """The engine of a job, to be opened in TensorRT's Python.

    name: of the engine in tables, such as "TensorRT, plugin"; empty takes the job's
    """
    options = SessionOptions(runtime="tensorrt", precision=job.precision, cuda_graph=cuda_graph)
    interpreter = context.settings.tensorrt
    key = job.name if not name else f"{name}, {job.role}" + ("" if job.tokens is None else f" at {job.tokens}")
    return EngineSpec(engine_folder(context, job), job.role, "model.plan", options, interpreter, key)


def build_engines(
    context: Context, jobs: Sequence[EngineJob], built: Callable[[EngineJob], None] = lambda job: None
) -> list[EngineJob]:
    """Build those engines that an earlier step did not, several at a time. Returns the jobs whose engine is there.

    built: called for each of them, in the thread that built it
    Emits a record ``build`` for each build. Raises DeviceNeededError, MissingDependencyError.
    """
    for model in dict.fromkeys(job.model for job in jobs):
        ensure_graphs(context, model)
        if any((job.model, job.precision) == (model, "int8") for job in jobs):
            ensure_int8_graphs(context, model)
    graphs = {job: graph_of_job(context, job) for job in dict.fromkeys(jobs)}
    count = f"{len(graphs)} engines such as {jobs[0].name}"
    context.device(f"TensorRT's builder selects kernels on the GPU: {count}", "tensorrt")
    ready: list[EngineJob] = []

    def work(job: EngineJob) -> None:
        if _built(context, job, graphs[job]):
            ready.append(job)
            built(job)

    with ThreadPoolExecutor(context.settings.builders) as pool:
        for future in [pool.submit(work, job) for job in graphs]:
            future.result()
    return [job for job in graphs if job in ready]


def check_all(jobs: Sequence[EngineJob], answered: Sequence[EngineJob]) -> None:
    """Raise EngineError where an engine gave no result: a step that compared nothing has not succeeded."""
    if lacking := [job.name for job in jobs if job not in answered]:
        raise EngineError(
            f"{len(lacking)} of {len(jobs)} engines gave no result, such as {lacking[0]}: see the builds and problems."
        )


def graph_of_job(context: Context, job: EngineJob) -> Graph:
    """The ONNX file that this TensorRT reads, and the nodes to keep in fp32."""
    version = tensorrt_version(context.found)
    return engine_graph(context.settings, version, job.model, job.role, job.precision, job.plugin)


def engine_folder(context: Context, job: EngineJob) -> Path:
    """The export directory of an engine."""
    return context.settings.work / "engines" / job.name


def _built(context: Context, job: EngineJob, graph: Graph) -> bool:
    folder = engine_folder(context, job)
    request, made = _request(context, job, graph, folder), folder / "key.txt"
    key = _key(context, job, request)
    if made.is_file() and made.read_text(encoding="utf-8") == key:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with suppress(OSError):  # without one the build takes longer
        shutil.copyfile(_newest_cache(folder.parent, job.model), folder / _CACHE)
    started = perf_counter()
    record: dict[str, Any] = {"engine": job.name, "batch": list(job.batch), "precision": job.precision}
    try:
        _write_manifest(context, job, folder, _build(context, job, request))
        made.write_text(key, encoding="utf-8")
        record |= {"bytes": (folder / "model.plan").stat().st_size, "error": None}
    except TokfilterError as error:
        shutil.rmtree(folder, ignore_errors=True)
        record |= {"bytes": None, "error": str(error)}
    seconds = round(perf_counter() - started, 1)
    context.emit("build", **record, seconds=seconds, builders=context.settings.builders)
    return record["error"] is None


def _request(context: Context, job: EngineJob, graph: Graph, folder: Path) -> dict[str, Any]:
    return {
        "graph": str(graph[0]),
        "fp32_layers": graph[1],
        "plan": str(folder / "model.plan"),
        "precision": job.precision,
        "batch": job.batch,
        "budget": _budget(context, job),
        "plugin": str(context.found["prepared plugin"]["found"]) if job.plugin else None,
        "timing_cache": str(folder / _CACHE),
    }


def _key(context: Context, job: EngineJob, request: dict[str, Any]) -> str:
    """Digest of all that an engine depends on: an earlier one with the same is used again."""
    library = sha256(Path(request["plugin"])) if job.plugin else None
    machine = [context.found.get(part) for part in ("gpu", "tensorrt")]
    parts = [request, library, graphs_key(context.settings, job.model, job.precision), machine]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _build(context: Context, job: EngineJob, request: dict[str, Any]) -> dict[str, Any]:
    """Run the worker; returns the target for the manifest. Raises EngineError with TensorRT's message."""
    # Without this, each of several builders starts as many threads as there are cores.
    threads = max(1, (os.cpu_count() or 1) // context.settings.builders)
    try:
        return dict(ask(context, "build_worker", request, OMP_NUM_THREADS=str(threads))["target"])
    except EngineError as error:
        raise EngineError(f"{job.name} was not built: {error}") from error


def _budget(context: Context, job: EngineJob) -> Range:
    if job.tokens is not None:
        return job.tokens, job.tokens, job.tokens
    model = context.settings.model(job.model)
    half = model.timed[1]
    return min([*model.compared, *model.timed]), half, model.patches


def _write_manifest(context: Context, job: EngineJob, folder: Path, target: dict[str, Any]) -> None:
    """An export directory with this engine, the golden tensors and the plugin library."""
    source = graphs_of(context.settings, job.model)
    manifest = load_manifest(source)
    _link(source / GOLDEN_FILE, folder / GOLDEN_FILE)
    files: list[Entry] = [entry_from_file(folder, GOLDEN_FILE, "golden")]
    if job.plugin:
        library = Path(str(context.found["prepared plugin"]["found"]))
        _link(library.resolve(), folder / library.name)
        files.append(entry_from_file(folder, library.name, "plugin", runtime="tensorrt"))
    budget = _budget(context, job) if job.role == "filtered" else None
    files.append(
        entry_from_file(
            folder,
            "model.plan",
            job.role,
            runtime="tensorrt",
            precision=job.precision,
            batch_range=job.batch,
            budget_range=budget,
            target=target,
        )
    )
    save_manifest(folder, replace(manifest, files=files))


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _newest_cache(folder: Path, model: str) -> Path:
    """The timing cache of the model's latest build. Raises OSError where there is none."""
    caches = sorted(folder.glob(f"{model}.*/{_CACHE}"), key=lambda path: path.stat().st_mtime)
    if not caches:
        raise FileNotFoundError(folder)
    return caches[-1]
